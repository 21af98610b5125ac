"""What only a registry in a SQLite file has."""

from __future__ import annotations

import sqlite3
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from weightloom.errors import Unavailable
from weightloom.registry import SqliteRegistry
from weightloom.registry.migrations import MIGRATIONS


def test_migrations_are_applied_once_by_many_at_once(tmp_path: Path) -> None:
    path = tmp_path / "registry.sqlite3"
    with ThreadPoolExecutor(8) as pool:
        registries = list(pool.map(lambda _: SqliteRegistry(path), range(8)))
    for opened in registries:
        opened.ping()
    applied = sqlite3.connect(path).execute("SELECT number, name FROM migrations").fetchall()
    assert applied == [(number, name) for number, name, _ in MIGRATIONS]
    assert [number for number, *_ in MIGRATIONS] == list(range(1, len(MIGRATIONS) + 1))


def test_tables_of_a_newer_server_are_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "registry.sqlite3"
    SqliteRegistry(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute("INSERT INTO migrations VALUES (99, 'of the future', '')")
    with pytest.raises(Unavailable, match="has migration 99 of a newer weightloom"):
        SqliteRegistry(path)


def test_the_file_is_in_wal_mode(tmp_path: Path) -> None:
    path = tmp_path / "registry.sqlite3"
    SqliteRegistry(path)
    assert sqlite3.connect(path).execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_trouble_with_the_file_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "registry.sqlite3"
    path.write_bytes(b"this is no database" * 100)
    with pytest.raises(Unavailable, match="not a database"):
        SqliteRegistry(path)
    with pytest.raises(Unavailable, match=r"cannot be opened: .*Not a directory"):
        SqliteRegistry(path / "below a file" / "registry.sqlite3")
