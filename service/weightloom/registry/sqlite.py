"""The default registry: one SQLite file in WAL mode, so that reads never wait for a write."""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from weightloom.errors import Conflict, NotFound, Unavailable, shorten
from weightloom.fabric.cache import BoundedCache
from weightloom.fabric.spec import DIGEST_PATTERN, ModelSpec
from weightloom.registry.migrations import migrate
from weightloom.registry.records import ModelSummary, summarize

__all__ = ["REGISTRY_FILE", "SqliteRegistry"]

REGISTRY_FILE = "registry.sqlite3"  # in the data folder
COLUMNS = "name, digest, tensors, numel, w_numbers, created_at, residency"
BUSY_TIMEOUT_SECONDS = 5.0
KEPT_TENSORS = 120_000  # parsed specs are kept until they hold this many tensors in all


class SqliteRegistry:
    """See ``Registry``. ``path`` is made, with its folder, where it is missing; None keeps the models in memory."""

    def __init__(self, path: Path | None) -> None:
        self._path = path or Path(":memory:")
        self._specs: BoundedCache[str, ModelSpec] = BoundedCache(KEPT_TENSORS, lambda spec: len(spec.tensors))
        self._write_lock = self._read_lock = threading.Lock()
        with self._translated():
            if path is not None:
                path.parent.mkdir(parents=True, exist_ok=True)
            self._writer = self._reader = _connect(self._path)
            migrate(self._writer)
            if path is not None:  # readers of a file need not wait while a write is put on disk
                self._reader, self._read_lock = _connect(path), threading.Lock()

    def create(self, spec: ModelSpec) -> tuple[ModelSummary, bool]:
        """Insert in one transaction that is on disk before this returns."""
        summary = summarize(spec, datetime.now(UTC).isoformat(timespec="milliseconds"))
        with self._writing() as connection:
            connection.execute("BEGIN IMMEDIATE")
            found = _one(connection, "name", spec.name)
            if found is None:
                row = _row_of(spec, summary)
                connection.execute("INSERT INTO models VALUES (?, ?, ?, ?, ?, ?, ?, NULL)", row)
            connection.execute("COMMIT")
        if found is not None and found.digest != spec.digest:
            message = f"model {spec.name!r} exists with digest {found.digest}; models are immutable, take another name"
            raise Conflict(message)
        return found or summary, found is None

    def find(self, name_or_digest: str) -> ModelSummary:
        """One indexed read."""
        with self._reading() as connection:
            found = _one(connection, _key_of(name_or_digest), name_or_digest)
        if found is None:
            raise _not_found(name_or_digest)
        return found

    def load(self, summary: ModelSummary) -> ModelSpec:
        """From memory where it was read lately: a digest's spec never changes."""
        spec = self._specs.get(summary.digest)
        if spec is None:
            with self._reading() as connection:
                row = connection.execute("SELECT spec FROM models WHERE digest = ?", (summary.digest,)).fetchone()
            if row is None:
                raise _not_found(summary.name)
            spec = _parse(row[0])
            self._specs.put(summary.digest, spec)
        return spec

    def page(self, after: str, limit: int) -> list[ModelSummary]:
        """In the order of the names' code points."""
        query = f"SELECT {COLUMNS} FROM models WHERE name > ? ORDER BY name LIMIT ?"
        with self._reading() as connection:
            return [_summary_of(row) for row in connection.execute(query, (after, limit))]

    def delete(self, name_or_digest: str) -> None:
        """Delete in one transaction that is on disk before this returns."""
        statement = f"DELETE FROM models WHERE {_key_of(name_or_digest)} = ?"
        with self._writing() as connection:
            gone = connection.execute(statement, (name_or_digest,)).rowcount
        if not gone:
            raise _not_found(name_or_digest)

    def set_residency(self, name_or_digest: str, residency: str | None) -> None:
        """Update in one transaction."""
        statement = f"UPDATE models SET residency = ? WHERE {_key_of(name_or_digest)} = ?"
        with self._writing() as connection:
            changed = connection.execute(statement, (residency, name_or_digest)).rowcount
        if not changed:
            raise _not_found(name_or_digest)

    def resident(self) -> list[ModelSummary]:
        """All of them: they are few, since memory is."""
        query = f"SELECT {COLUMNS} FROM models WHERE residency = 'resident' ORDER BY name"
        with self._reading() as connection:
            return [_summary_of(row) for row in connection.execute(query)]

    def version(self) -> int:
        """SQLite's own count of other connections' commits; our writer is another connection than our reader."""
        with self._reading() as connection:
            return int(connection.execute("PRAGMA data_version").fetchone()[0])

    def ping(self) -> None:
        """Read something that is there since the first migration."""
        with self._reading() as connection:
            connection.execute("SELECT count(*) FROM migrations").fetchone()

    def close(self) -> None:
        """Close both connections; SQLite folds the write-ahead log back in."""
        self._reader.close()
        self._writer.close()

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with self._read_lock, self._translated():
            yield self._reader

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self._write_lock, self._translated():
            try:
                yield self._writer
            finally:
                if self._writer.in_transaction:  # something above failed: leave nothing half done
                    self._writer.execute("ROLLBACK")

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise Unavailable(f"the registry {self._path} cannot be used: {error}") from error


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(
        path, timeout=BUSY_TIMEOUT_SECONDS, isolation_level=None, check_same_thread=False, cached_statements=32
    )
    _enter_wal(connection)
    connection.execute("PRAGMA synchronous = FULL")  # acknowledged means on disk, even through a power cut
    return connection


def _enter_wal(connection: sqlite3.Connection) -> None:
    """Switch to the write-ahead log. SQLite does not apply its own time-out to this step, so we wait."""
    deadline = time.monotonic() + BUSY_TIMEOUT_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def _one(connection: sqlite3.Connection, key: str, value: str) -> ModelSummary | None:
    query = f"SELECT {COLUMNS} FROM models WHERE {key} = ?"
    row = connection.execute(query, (value,)).fetchone()
    return _summary_of(row) if row else None


def _key_of(name_or_digest: str) -> str:
    return "digest" if DIGEST_PATTERN.fullmatch(name_or_digest) else "name"


def _row_of(spec: ModelSpec, summary: ModelSummary) -> tuple[str | bytes | int, ...]:
    counts = summary.tensors, str(summary.numel), str(summary.w_numbers)
    return spec.name, spec.digest, spec.canonical, *counts, summary.created_at


def _summary_of(row: tuple[str, str, int, str, str, str, str | None]) -> ModelSummary:
    name, digest, tensors, numel, w_numbers, created_at, residency = row
    return ModelSummary(name, digest, tensors, int(numel), int(w_numbers), created_at, residency)


def _parse(canonical: bytes) -> ModelSpec:
    value = json.loads(canonical)
    value.pop("generator")
    return ModelSpec.from_value(value)


def _not_found(name: str) -> NotFound:
    return NotFound(f"no model has the name or digest {shorten(name)!r}")
