"""The PostgreSQL database of a registry: every failure as Unavailable, with the reason and what to do about it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import psycopg

from weightloom.errors import Unavailable
from weightloom.registry.postgres.address import name_of, parameters_of
from weightloom.registry.postgres.connection import Connection
from weightloom.registry.postgres.connections import Connections, GoneError
from weightloom.registry.postgres.failures import ADVICE, SilentError, explain, is_busy, was_cut
from weightloom.registry.postgres.migrations import migrate

__all__ = ["CHANGED", "CREATED", "LOCKED", "Database"]

# How a write begins: each locks the one row of the state until it ends, and gives the count of changes.
LOCKED = "SELECT changes FROM weightloom.state FOR UPDATE"
CREATED = "UPDATE weightloom.state SET version = version + 1 RETURNING changes"
CHANGED = "UPDATE weightloom.state SET version = version + 1, changes = changes + 1 RETURNING changes"
PROBED = "SELECT changes FROM weightloom.state FOR UPDATE NOWAIT"
PROBE = "UPDATE weightloom.state SET version = version"
PROBE_SECONDS = 5.0  # between two writes that only ask whether writes go well again
READ_ONLY = f"cannot be written: {ADVICE['25006']}"


class Database:
    """All calls raise Unavailable, within bounded time. Safe to use from many threads."""

    def __init__(self, url: str) -> None:
        parameters = parameters_of(url)
        self.name = name_of(parameters)
        self._connections = Connections(parameters)
        self._problem: str | None = None
        self._next_probe = 0.0
        try:
            with self._told("cannot be opened"), self._connections.one() as connection:
                migrate(connection)
        except BaseException:
            self.close()
            raise

    def row(self, query: str, *values: Any) -> tuple[Any, ...] | None:
        """The first row that a query gives, or None."""
        return next(iter(self.rows(query, *values)), None)

    def rows(self, query: str, *values: Any) -> Sequence[tuple[Any, ...]]:
        """All rows that a query gives."""
        with self._told("cannot be read"):
            try:
                return self._read(query, values)
            except (GoneError, SilentError):
                raise
            except psycopg.OperationalError as error:
                if not was_cut(error):
                    raise
            return self._read(query, values)  # the connection ended beneath us; a new one tells how things are

    def _read(self, query: str, values: Sequence[Any]) -> Sequence[tuple[Any, ...]]:
        with self._connections.one() as connection:
            return connection.execute(query, values, binary=True).fetchall()

    @contextmanager
    def writing(self, begin: str) -> Iterator[tuple[Connection, int]]:
        """A transaction, and the count of changes in it: committed when this context ends well; undone otherwise.

        One at a time, of all servers: others are waited for, some seconds at most. ``begin``: CREATED, CHANGED, LOCKED.
        """
        asked = False
        try:
            with self._connections.one() as connection, connection.transaction():
                (changes,) = connection.execute(begin).fetchone() or (0,)
                yield connection, changes
                asked = True
        except psycopg.Error as error:
            raise self._unwritten(error, asked) from error
        self._problem = None

    def _unwritten(self, error: psycopg.Error, asked: bool) -> Unavailable:
        problem = f"cannot be written: {explain(error)}"
        if not was_cut(error) and not is_busy(error):
            self._problem = problem  # who waits for others, or finds no database, learns nothing about writes
        if asked and was_cut(error):
            problem += "; the connection ended during the last step: the same call again tells whether it was kept"
        return self._unavailable(problem)

    def check_readable(self) -> None:
        """Raise Unavailable unless the database answers and has our tables."""
        if self.row("SELECT version FROM weightloom.state") is None:
            raise self._unavailable("cannot be read: its table weightloom.state is empty; restore it from a backup")

    def write_problem(self) -> str | None:
        """Why nothing can be written, or None. Writes nothing itself, unless the last write failed."""
        with suppress(Unavailable):  # it has been noted, where it means anything
            if self._problem is None:
                row = self.row("SELECT current_setting('transaction_read_only')")
                return READ_ONLY if row == ("on",) else None
            if time.monotonic() > self._next_probe:
                self._next_probe = time.monotonic() + PROBE_SECONDS
                with self.writing(PROBED) as (connection, _):
                    connection.execute(PROBE)
        return self._problem

    def close(self) -> None:
        """Close all connections."""
        self._connections.close()

    @contextmanager
    def _told(self, what: str) -> Iterator[None]:
        try:
            yield
        except psycopg.Error as error:
            raise self._unavailable(f"{what}: {explain(error)}") from error

    def _unavailable(self, reason: str) -> Unavailable:
        return Unavailable(f"the registry {self.name} {reason}")
