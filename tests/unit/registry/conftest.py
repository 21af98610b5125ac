"""Registries of every kind: what holds for one holds for all."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from support.postgres import Cluster
from weightloom.registry import Registry, SqliteRegistry, open_registry

Open = Callable[[], Registry]


@pytest.fixture(autouse=True)
def _patient_writers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many write at once in some tests, and a busy disk may take a second for each."""
    monkeypatch.setattr("weightloom.registry.database.WRITE_WAIT_SECONDS", 60.0)


@pytest.fixture
def database(cluster: Cluster) -> str:
    """The URL of a new database in PostgreSQL."""
    return cluster.database()


@pytest.fixture(params=["file", "postgres"])
def open_again(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Open]:
    """Opens the same registry at each call, as another process would; its folder is ``tmp_path``."""
    url = request.getfixturevalue("database") if request.param == "postgres" else None
    with ExitStack() as stack:
        yield lambda: stack.enter_context(closing(open_registry(url, tmp_path)))


@pytest.fixture(params=["file", "memory", "postgres"])
def registry(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Registry]:
    """An empty one."""
    if request.param == "memory":
        made: Registry = SqliteRegistry(None)
    else:
        url = request.getfixturevalue("database") if request.param == "postgres" else None
        made = open_registry(url, tmp_path / "folder")
    with closing(made):
        yield made
