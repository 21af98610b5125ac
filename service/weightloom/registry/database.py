"""One SQLite file in WAL mode and its two connections: reads never wait for a write, and no write is lost unnoticed."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from weightloom.errors import Unavailable
from weightloom.registry.failures import ReplacedError, explain, is_busy
from weightloom.registry.migrations import migrate

__all__ = ["Database"]

WRITE_WAIT_SECONDS = 5.0  # for another writer
READ_WAIT_SECONDS = 0.25  # reads happen on the event loop
PROBE_SECONDS = 30.0  # a write that went well proves for so long that writes go well


class Database:
    """All calls raise Unavailable, saying what is wrong and what to do. ``path`` is made where it is missing.

    Safe to use from many threads. None as ``path`` keeps everything in memory, over one connection.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path or Path(":memory:")
        self._problem: str | None = None
        self._write_lock = self._read_lock = threading.Lock()
        try:
            if path is not None:
                path.parent.mkdir(parents=True, exist_ok=True)
            self._writer = self._reader = _connect(self.path, WRITE_WAIT_SECONDS)
            migrate(self._writer)
            if path is not None:
                self._reader, self._read_lock = _connect(path, READ_WAIT_SECONDS), threading.Lock()
        except (sqlite3.Error, OSError) as error:
            raise self._unavailable(f"cannot be opened: {explain(error)}") from error
        self._files = _identities(path) if path is not None else {}
        self._proven = -PROBE_SECONDS

    def row(self, query: str, *values: str | int) -> tuple[Any, ...] | None:
        """The first row that a query gives, or None."""
        with self._read_lock:
            try:
                found: tuple[Any, ...] | None = self._reader.execute(query, values).fetchone()
            except sqlite3.Error as error:
                raise self._unavailable(f"cannot be read: {explain(error)}") from error
        return found

    def rows(self, query: str, *values: str | int) -> Sequence[tuple[Any, ...]]:
        """All rows that a query gives."""
        with self._read_lock:
            try:
                return self._reader.execute(query, values).fetchall()
            except sqlite3.Error as error:
                raise self._unavailable(f"cannot be read: {explain(error)}") from error

    @contextmanager
    def writing(self, wait: float | None = None) -> Iterator[sqlite3.Connection]:
        """A transaction: on disk, at ``path``, when this context ends well; undone otherwise.

        Others that write are waited for, ``wait`` seconds at most (WRITE_WAIT_SECONDS where it is None).
        """
        wait = WRITE_WAIT_SECONDS if wait is None else wait
        try:
            with self._turn(wait), self._transaction():
                yield self._writer
        except (sqlite3.Error, OSError) as error:
            problem = f"cannot be written: {explain(error)}"
            if wait or not is_busy(error):  # who does not wait for others learns nothing from meeting them
                self._problem = problem
            raise self._unavailable(problem) from error
        self._problem, self._proven = None, time.monotonic()

    def check_readable(self) -> None:
        """Raise Unavailable unless the file is still there and can be read."""
        try:
            self._check_files()
        except ReplacedError as error:
            raise self._unavailable(str(error)) from error
        self.row("SELECT count(*) FROM migrations")

    def write_problem(self) -> str | None:
        """Why nothing can be written, or None; from the last write, or from a tiny one made now. Waits for nobody."""
        if self._problem is None and time.monotonic() - self._proven < PROBE_SECONDS:
            return None
        try:
            with self.writing(wait=0) as connection:
                (version,) = connection.execute("PRAGMA user_version").fetchone()
                connection.execute(f"PRAGMA user_version = {version}")  # the same again still goes to the disk
        except Unavailable:
            pass  # it has been noted, where it means anything
        return self._problem

    def close(self) -> None:
        """Close both connections; the last process to do so folds the write-ahead log back in."""
        self._reader.close()
        self._writer.close()

    @contextmanager
    def _turn(self, wait: float) -> Iterator[None]:
        """The writer's connection for this thread, with what is left of ``wait`` for other processes."""
        until = time.monotonic() + wait
        if not self._write_lock.acquire(timeout=wait):
            raise TimeoutError("other writes did not end in time; try again later")
        try:
            left = max(0, int((until - time.monotonic()) * 1000))
            self._writer.execute(f"PRAGMA busy_timeout = {left}")
            yield
        finally:
            self._write_lock.release()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._check_files()
        self._writer.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._writer.execute("COMMIT")
        finally:
            if self._writer.in_transaction:  # something failed: leave nothing half done
                self._writer.execute("ROLLBACK")
        self._check_files()

    def _check_files(self) -> None:
        for file, held in self._files.items():
            if _identity(file) != held:
                message = f"{file} was removed or replaced while the server runs; put it back, or restart the server"
                raise ReplacedError(message)

    def _unavailable(self, reason: str) -> Unavailable:
        return Unavailable(f"the registry {self.path} {reason}")


def _connect(path: Path, wait: float) -> sqlite3.Connection:
    connection = sqlite3.connect(
        path, timeout=wait, isolation_level=None, check_same_thread=False, cached_statements=32
    )
    _enter_wal(connection)
    connection.execute("PRAGMA synchronous = FULL")  # acknowledged means on disk, even through a power cut
    return connection


def _enter_wal(connection: sqlite3.Connection) -> None:
    """Switch to the write-ahead log. SQLite does not apply its own time-out to this step, so we wait."""
    deadline = time.monotonic() + WRITE_WAIT_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if not is_busy(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def _identities(path: Path) -> dict[Path, tuple[int, int]]:
    """The files that the connections hold: SQLite keeps all three in place for as long as one of them is open."""
    found = {file: _identity(file) for file in (path, Path(f"{path}-wal"), Path(f"{path}-shm"))}
    return {file: identity for file, identity in found.items() if identity is not None}


def _identity(file: Path) -> tuple[int, int] | None:
    """Device and inode. The file must not be opened for this: closing it would drop the locks that SQLite has on it."""
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino
