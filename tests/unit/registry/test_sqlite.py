"""The registry: what was acknowledged stays, what failed leaves nothing."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from weightloom.errors import Conflict, NotFound, Unavailable
from weightloom.fabric import ModelSpec
from weightloom.registry import SqliteRegistry
from weightloom.registry.migrations import MIGRATIONS


def spec(name: str = "demo/a", seed: int = 1, size: int = 4) -> ModelSpec:
    tensors = [{"name": "t", "shape": [size], "l": 2}, {"name": "b", "shape": [3], "kind": "identity"}]
    return ModelSpec.from_value({"name": name, "seed": seed, "tensors": tensors})


@pytest.fixture(params=["file", "memory"])
def registry(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SqliteRegistry]:
    made = SqliteRegistry(tmp_path / "folder" / "registry.sqlite3" if request.param == "file" else None)
    yield made
    made.close()


def test_a_model_is_found_by_name_and_by_digest(registry: SqliteRegistry) -> None:
    summary, created = registry.create(spec())
    assert created
    assert (summary.tensors, summary.numel, summary.w_numbers) == (2, 7, 5)
    assert registry.find("demo/a") == registry.find(spec().digest) == summary
    assert registry.load(summary).digest == spec().digest


def test_the_same_again_is_no_error_and_another_is(registry: SqliteRegistry) -> None:
    first, _ = registry.create(spec())
    assert registry.create(spec()) == (first, False)
    with pytest.raises(Conflict, match=f"'demo/a' exists with digest {first.digest}"):
        registry.create(spec(seed=2))
    assert registry.page("", 10) == [first]


def test_deleted_is_gone(registry: SqliteRegistry) -> None:
    registry.create(spec())
    registry.create(spec("demo/b"))
    registry.delete("demo/a")
    registry.delete(spec("demo/b").digest)
    for gone in ("demo/a", "demo/b", spec().digest):
        with pytest.raises(NotFound):
            registry.find(gone)
        with pytest.raises(NotFound):
            registry.delete(gone)
    assert registry.create(spec(seed=2))[1], "the name is free again"


def test_pages_go_by_name(registry: SqliteRegistry) -> None:
    for name in ("c", "a", "b/x", "b"):
        registry.create(spec(name))
    assert [m.name for m in registry.page("", 3)] == ["a", "b", "b/x"]
    assert [m.name for m in registry.page("b/x", 3)] == ["c"]
    assert registry.page("c", 3) == []


def test_models_of_any_size_fit(registry: SqliteRegistry) -> None:
    tensors = [{"name": f"t{i}", "shape": [1 << 48]} for i in range(70_000)]
    huge = ModelSpec.from_value({"name": "huge", "seed": 2**64 - 1, "tensors": tensors})
    registry.create(huge)
    assert registry.find("huge").numel == 70_000 << 48


def test_a_model_survives_the_process(tmp_path: Path) -> None:
    path = tmp_path / "registry.sqlite3"
    first = SqliteRegistry(path)
    summary, _ = first.create(spec())
    second = SqliteRegistry(path)  # the first one is still open, as after kill -9
    assert second.find("demo/a") == summary
    assert second.load(summary) == spec()


def test_migrations_are_applied_once_by_many_at_once(tmp_path: Path) -> None:
    path = tmp_path / "registry.sqlite3"
    with ThreadPoolExecutor(8) as pool:
        registries = list(pool.map(lambda _: SqliteRegistry(path), range(8)))
    for opened in registries:
        opened.ping()
    applied = sqlite3.connect(path).execute("SELECT number, name FROM migrations").fetchall()
    assert applied == [(number, name) for number, name, _ in MIGRATIONS]
    assert [number for number, *_ in MIGRATIONS] == list(range(1, len(MIGRATIONS) + 1))


def test_the_file_is_in_wal_mode(tmp_path: Path) -> None:
    path = tmp_path / "registry.sqlite3"
    SqliteRegistry(path)
    assert sqlite3.connect(path).execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_one_name_from_many_threads_is_made_once(registry: SqliteRegistry) -> None:
    with ThreadPoolExecutor(8) as pool:
        created = list(pool.map(lambda _: registry.create(spec())[1], range(40)))
    assert sum(created) == 1


def test_trouble_with_the_file_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "registry.sqlite3"
    path.write_bytes(b"this is no database" * 100)
    with pytest.raises(Unavailable, match="not a database"):
        SqliteRegistry(path)
    with pytest.raises(Unavailable, match=r"cannot be opened: .*Not a directory"):
        SqliteRegistry(path / "below a file" / "registry.sqlite3")
