"""A registry that cannot be written says why, acknowledges nothing, and goes on reading."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from weightloom.errors import NotFound, Unavailable
from weightloom.fabric import ModelSpec
from weightloom.registry import SqliteRegistry
from weightloom.registry.database import Database

FILES = ("registry.sqlite3", "registry.sqlite3-wal", "registry.sqlite3-shm")


def spec(name: str, tensors: int = 1) -> ModelSpec:
    return ModelSpec.from_value(
        {"name": name, "seed": 1, "tensors": [{"name": f"t{i}", "shape": [4]} for i in range(tensors)]}
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / FILES[0]


@pytest.fixture
def registry(path: Path) -> Iterator[SqliteRegistry]:
    made = SqliteRegistry(path)
    made.create(spec("known"))
    yield made
    made.close()


def writer_of(registry: SqliteRegistry) -> sqlite3.Connection:
    return registry._database._writer


def assert_reads_only(registry: SqliteRegistry, why: str) -> None:
    with pytest.raises(Unavailable, match=why):
        registry.create(spec("new", tensors=500))
    with pytest.raises(Unavailable, match=why):
        registry.delete("known")
    with pytest.raises(NotFound):
        registry.find("new")
    assert registry.load(registry.find("known")) == spec("known")


def test_a_file_that_may_not_grow(registry: SqliteRegistry) -> None:
    (pages,) = writer_of(registry).execute("PRAGMA page_count").fetchone()
    writer_of(registry).execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(Unavailable, match=r"cannot be written: .*disk is full; free some space on its disk"):
        registry.create(spec("new", tensors=500))
    with pytest.raises(NotFound):
        registry.find("new")
    registry.ping()
    writer_of(registry).execute("PRAGMA max_page_count = 100000")
    assert registry.create(spec("new", tensors=500))[1]


def test_a_file_that_may_only_be_read(registry: SqliteRegistry) -> None:
    assert registry.write_problem() is None
    writer_of(registry).execute("PRAGMA query_only = 1")
    assert_reads_only(registry, "cannot be written: attempt to write a readonly database; make the file and its folder")
    registry.ping()
    assert "cannot be written: attempt to write a readonly" in str(registry.write_problem())
    writer_of(registry).execute("PRAGMA query_only = 0")
    assert registry.write_problem() is None


def test_what_cannot_be_written_is_found_without_a_request_that_writes(
    registry: SqliteRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer_of(registry).execute("PRAGMA query_only = 1")
    assert registry.write_problem() is None, "a write has just gone well"
    monkeypatch.setattr("weightloom.registry.database.PROBE_SECONDS", 0)
    assert "readonly" in str(registry.write_problem())


def remove_database(path: Path) -> None:
    path.unlink()


def remove_log(path: Path) -> None:
    path.with_name(FILES[1]).unlink()


def remove_index(path: Path) -> None:
    path.with_name(FILES[2]).unlink()


def remove_folder(path: Path) -> None:
    shutil.rmtree(path.parent)


def replace_by_a_copy(path: Path) -> None:
    copy = path.with_name("copy")
    copy.write_bytes(path.read_bytes())
    copy.replace(path)


def begin_anew(path: Path) -> None:
    shutil.rmtree(path.parent)
    SqliteRegistry(path).close()


@pytest.mark.parametrize(
    "vanish", [remove_database, remove_log, remove_index, remove_folder, replace_by_a_copy, begin_anew]
)
def test_files_that_are_gone_get_no_acknowledgement(
    registry: SqliteRegistry, path: Path, vanish: Callable[[Path], None]
) -> None:
    vanish(path)
    assert_reads_only(registry, "was removed or replaced while the server runs; put it back, or restart the server")
    with pytest.raises(Unavailable, match=r"was removed or replaced"):
        registry.ping()
    assert "removed or replaced" in str(registry.write_problem())


def test_files_that_go_during_a_write_get_no_acknowledgement(path: Path) -> None:
    database = Database(path)
    with pytest.raises(Unavailable, match="removed or replaced"), database.writing():
        path.rename(path.with_name("elsewhere"))
    path.with_name("elsewhere").rename(path)
    database.check_readable()
    assert database.write_problem() is None
    database.close()


@pytest.fixture
def other_program(path: Path, registry: SqliteRegistry) -> Iterator[sqlite3.Connection]:
    """Another connection in the middle of a write."""
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    yield other
    other.close()


def test_a_lock_of_another_program(
    registry: SqliteRegistry, other_program: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("weightloom.registry.database.WRITE_WAIT_SECONDS", 0.05)
    assert_reads_only(registry, "cannot be written: database is locked; another program holds a lock on it")
    assert "locked" in str(registry.write_problem())
    other_program.execute("ROLLBACK")
    assert registry.write_problem() is None
    assert registry.create(spec("new"))[1]


def test_a_write_in_progress_elsewhere_is_no_problem(
    registry: SqliteRegistry, other_program: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("weightloom.registry.database.PROBE_SECONDS", 0)
    assert other_program.in_transaction
    assert registry.write_problem() is None


def test_a_registry_that_is_locked_can_still_be_opened(path: Path, other_program: sqlite3.Connection) -> None:
    assert other_program.in_transaction
    again = SqliteRegistry(path)
    assert again.find("known").name == "known"
    again.close()
