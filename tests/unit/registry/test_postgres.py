"""What only a registry in PostgreSQL has: a network between, other servers, a database that comes and goes."""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import psycopg
import pytest
from support.imported import sha256_of
from support.postgres import PASSWORD, Cluster
from weightloom.errors import NotFound, Unavailable
from weightloom.fabric import ModelSpec
from weightloom.registry import SqliteRegistry
from weightloom.registry.postgres import PostgresRegistry, connections
from weightloom.registry.postgres.database import CREATED
from weightloom.registry.postgres.migrations import MIGRATIONS
from weightloom.settings import Settings


def spec(name: str, seed: int = 1) -> ModelSpec:
    return ModelSpec.from_value({"name": name, "seed": seed, "tensors": [{"name": "t", "shape": [4], "l": 2}]})


@pytest.fixture
def registry(database: str, tmp_path: Path) -> Iterator[PostgresRegistry]:
    with closing(PostgresRegistry(database, tmp_path)) as made:
        made.create(spec("known"))
        yield made


def name_of(url: str) -> str:
    return url.rpartition("/")[2]


def end_connections(cluster: Cluster, url: str) -> None:
    """As a restart ends them, or an administrator."""
    query = f"SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity WHERE datname = '{name_of(url)}'"
    cluster.execute(query)


def state(cluster: Cluster, url: str) -> list[tuple[object, ...]]:
    """Another one after each write, even if the same was written."""
    return cluster.execute("SELECT xmin::text, ctid::text FROM weightloom.state", name_of(url))


def test_migrations_are_applied_once_by_many_at_once(cluster: Cluster, database: str, tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        for opened in pool.map(lambda _: PostgresRegistry(database, tmp_path), range(16)):
            opened.close()
    applied = cluster.execute("SELECT number, name FROM weightloom.migrations ORDER BY number", name_of(database))
    assert applied == [(number, name) for number, name, _ in MIGRATIONS]
    assert [number for number, *_ in MIGRATIONS] == list(range(1, len(MIGRATIONS) + 1))


def test_opening_what_is_whole_writes_nothing(
    cluster: Cluster, database: str, registry: PostgresRegistry, tmp_path: Path
) -> None:
    cluster.execute(f"ALTER DATABASE {name_of(database)} SET default_transaction_read_only = on")
    with closing(PostgresRegistry(database, tmp_path)) as again:
        assert again.find("known") == registry.find("known")
        assert "it takes no writes now" in str(again.write_problem())
        with pytest.raises(Unavailable, match=r"cannot be written: .*read-only transaction; it takes no writes now"):
            again.create(spec("new"))


def test_tables_of_a_newer_server_are_left_alone(
    cluster: Cluster, database: str, registry: PostgresRegistry, tmp_path: Path
) -> None:
    cluster.execute("INSERT INTO weightloom.migrations VALUES (99, 'of the future', '')", name_of(database))
    with pytest.raises(Unavailable, match="has migration 99 of a newer weightloom"):
        PostgresRegistry(database, tmp_path)
    registry.ping()


def test_the_database_may_sort_as_it_likes_and_have_tables_of_these_names(cluster: Cluster, tmp_path: Path) -> None:
    cluster.execute("CREATE DATABASE others TEMPLATE template0 LOCALE_PROVIDER icu ICU_LOCALE 'en' LOCALE 'C.UTF-8'")
    cluster.execute("CREATE TABLE models (mine TEXT); CREATE TABLE migrations (mine TEXT)", "others")
    with closing(PostgresRegistry(cluster.url("others"), tmp_path)) as registry:
        for name in ("b", "B", "a", "A"):
            registry.create(spec(name))
        assert [model.name for model in registry.page("", 9)] == ["A", "B", "a", "b"]


def test_a_database_of_another_encoding_is_refused(cluster: Cluster, tmp_path: Path) -> None:
    cluster.execute("CREATE DATABASE latin TEMPLATE template0 ENCODING 'LATIN1' LOCALE 'C'")
    with pytest.raises(Unavailable, match="its encoding is LATIN1; create the database with UTF8"):
        PostgresRegistry(cluster.url("latin"), tmp_path)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:PART@PART@host/d",
        "postgresql://u:PART%zz@host/d",
        "postgresql://u:PART/PART@host/d",
        "postgresql://u:12/PART@host/d",
        "postgresql://u:PART?PART@host/d",
        "postgresql://u:PART@host:PART/d",
        "postgresql://u:PART@127.0.0.1:1/d",
        "postgresql://u@127.0.0.1:1/d?password=PART",
    ],
)
def test_no_part_of_a_password_is_told(tmp_path: Path, url: str) -> None:
    with pytest.raises(Unavailable) as caught:
        PostgresRegistry(url, tmp_path)
    assert "PART" not in str(caught.value)


def test_settings_that_are_printed_do_not_show_it() -> None:
    assert "PART" not in repr(Settings(registry_url="postgresql://u:PART@host/d"))


def test_what_keeps_it_from_opening_is_told(cluster: Cluster, tmp_path: Path) -> None:
    wrong = cluster.url().replace(PASSWORD, "not-the-one")
    for url, why in (
        (wrong, 'password authentication failed for user "weightloom"'),
        (cluster.url("nowhere"), 'database "nowhere" does not exist'),
        (re.sub(r":\d+/", ":1/", cluster.url()), "Connection refused"),
    ):
        with pytest.raises(Unavailable, match=rf"postgresql://127.0.0.1:\d+/\w+ cannot be opened: .*{why}") as caught:
            PostgresRegistry(url, tmp_path)
        assert "not-the-one" not in str(caught.value)
        assert PASSWORD not in str(caught.value)


def test_connections_that_ended_are_replaced_unnoticed(
    cluster: Cluster, database: str, registry: PostgresRegistry
) -> None:
    for call in (registry.ping, lambda: registry.create(spec("new")), registry.version):
        end_connections(cluster, database)
        call()


def test_a_commit_whose_end_is_unknown_says_so(cluster: Cluster, database: str, registry: PostgresRegistry) -> None:
    told = "the connection ended during the last step: the same call again tells whether it was kept"
    with pytest.raises(Unavailable, match=told), registry._database.writing(CREATED):
        end_connections(cluster, database)
    assert registry.create(spec("new"))[1]


def sleep_in_a_write(registry: PostgresRegistry) -> None:
    with registry._database.writing(CREATED) as (connection, _):
        connection.answer_seconds = 0.3
        connection.execute("SELECT pg_sleep(2)")


def test_a_database_that_falls_silent_in_a_write_is_told(
    registry: PostgresRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "RETRY_SECONDS", 3600)
    told = r"cannot be written: it did not answer within 0.3 s$"
    with pytest.raises(Unavailable, match=told):
        sleep_in_a_write(registry)
    with pytest.raises(Unavailable, match=r"it did not answer within 0.3 s"):
        registry.ping()  # at once: it would hold up as many threads as ask
    registry._database._connections._next_try = 0  # so long ago it was
    registry.ping()


def test_a_write_of_somebody_else_is_waited_for_in_bounds_and_no_problem(
    database: str, registry: PostgresRegistry
) -> None:
    with psycopg.connect(database) as other:
        other.execute("SELECT * FROM weightloom.state FOR UPDATE")
        with pytest.raises(Unavailable, match="another transaction holds a lock"):
            registry.create(spec("new"))
        assert registry.write_problem() is None
        registry.ping()
    assert registry.create(spec("new"))[1]


def test_looking_whether_writes_go_well_writes_nothing(
    cluster: Cluster, database: str, registry: PostgresRegistry
) -> None:
    before = state(cluster, database)
    assert [registry.write_problem() for _ in range(20)] == [None] * 20
    assert state(cluster, database) == before


def test_a_write_that_failed_is_tried_again_now_and_then(
    cluster: Cluster, database: str, registry: PostgresRegistry
) -> None:
    cluster.execute("ALTER TABLE weightloom.models ADD CONSTRAINT full_disk CHECK (name = 'known')", name_of(database))
    with pytest.raises(Unavailable, match="full_disk"):
        registry.create(spec("new"))
    before = state(cluster, database)
    assert registry.write_problem() is None, "the state's own table takes writes"
    assert state(cluster, database) != before


def test_the_same_model_again_writes_nothing(cluster: Cluster, database: str, registry: PostgresRegistry) -> None:
    before = state(cluster, database)
    assert not registry.create(spec("known"))[1]
    assert state(cluster, database) == before


@pytest.mark.parametrize("count", ["version", "changes"])
def test_a_state_that_was_restored_from_a_backup_is_noticed(
    cluster: Cluster, database: str, registry: PostgresRegistry, count: str
) -> None:
    registry.create(spec("other"))
    registry.delete("other")
    registry.version()
    cluster.execute(f"UPDATE weightloom.state SET {count} = 0", name_of(database))
    cluster.execute("DELETE FROM weightloom.models", name_of(database))
    registry.version()
    with pytest.raises(NotFound):
        registry.find("known")


def test_a_backup_can_be_restored_here_and_elsewhere(
    cluster: Cluster, database: str, registry: PostgresRegistry, tmp_path: Path
) -> None:
    cluster.dump(database, tmp_path / "dump")
    registry.create(spec("later"))
    elsewhere = cluster.database()
    for url in (elsewhere, database):
        cluster.restore(url, tmp_path / "dump")
        with closing(PostgresRegistry(url, tmp_path)) as again:
            assert [model.name for model in again.page("", 9)] == ["known"]
            assert again.create(spec("new"))[1]


def test_the_way_back_from_a_newer_version(
    cluster: Cluster, database: str, registry: PostgresRegistry, tmp_path: Path
) -> None:
    """As documented: the newer one has made what the backup does not know."""
    cluster.dump(database, tmp_path / "dump")
    cluster.execute("CREATE TABLE weightloom.newer ()", name_of(database))
    cluster.execute("INSERT INTO weightloom.migrations VALUES (99, 'newer', 'now')", name_of(database))
    with pytest.raises(subprocess.CalledProcessError):
        cluster.restore(database, tmp_path / "dump")
    cluster.execute("DROP SCHEMA weightloom CASCADE", name_of(database))
    cluster.restore(database, tmp_path / "dump")
    with closing(PostgresRegistry(database, tmp_path)) as again:
        assert [model.name for model in again.page("", 9)] == ["known"]


def test_what_is_known_is_found_without_the_database(registry: PostgresRegistry) -> None:
    registry._database.close()
    summary = registry.known("known")
    assert summary is not None
    assert registry.load(summary) == spec("known")


def test_factors_of_a_sqlite_registry_in_the_same_folder_stay(registry: PostgresRegistry, tmp_path: Path) -> None:
    blob = bytes(56)
    with closing(SqliteRegistry(tmp_path / "registry.sqlite3")) as beside:
        beside.factors.put(sha256_of(blob), [blob])
    long_ago = time.time() - 1e6
    os.utime(tmp_path / "factors" / sha256_of(blob), (long_ago, long_ago))
    with closing(PostgresRegistry(registry_url(registry), tmp_path)) as again:
        again.sweep()
        assert again.factors.size(sha256_of(blob)) == 56
    registry.sweep()


def registry_url(registry: PostgresRegistry) -> str:
    return registry._database._connections._conninfo
