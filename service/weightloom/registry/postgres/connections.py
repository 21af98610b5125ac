"""A few connections to one database: each call ends within bounded time, and a restart of the database heals.

psycopg's own pool makes callers wait for a database that is gone, and tells them that none was free. This one connects
in the caller's thread: the caller hears the reason at once, and the first call after a restart works.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psycopg
from psycopg.conninfo import make_conninfo

from weightloom.registry.postgres.address import CONNECT_SECONDS
from weightloom.registry.postgres.connection import ANSWER_SECONDS, Connection, connect
from weightloom.registry.postgres.failures import SilentError

__all__ = ["MOST_CONNECTIONS", "Connections", "GoneError"]

MOST_CONNECTIONS = 5  # of one process
RETRY_SECONDS = 0.5  # between two tries to reach a database that is gone; who calls meanwhile is told at once


class GoneError(psycopg.OperationalError):
    """The database could not be reached a moment ago, for this reason."""


class Connections:
    """Safe to use from many threads."""

    def __init__(self, parameters: dict[str, str]) -> None:
        self._conninfo, self._closed = make_conninfo(**parameters), False
        self._idle = list[Connection]()
        self._lock, self._free = threading.Lock(), threading.BoundedSemaphore(MOST_CONNECTIONS)
        self._reason: str | None = None
        self._next_try = 0.0

    @contextmanager
    def one(self) -> Iterator[Connection]:
        """A connection of the caller's own for a while. Raises psycopg.Error."""
        if not self._free.acquire(timeout=ANSWER_SECONDS):
            raise GoneError(f"all {MOST_CONNECTIONS} connections were busy for {ANSWER_SECONDS:g} s")
        try:
            self._refuse_while_gone()
            connection = self._take()
            try:
                yield connection
            except SilentError as error:
                self._note(error)
                raise
            finally:
                self._give_back(connection)
        finally:
            self._free.release()

    def close(self) -> None:
        """Close them all; those in use, when they are given back."""
        with self._lock:
            self._closed = True
        self._drop_idle()

    def _take(self) -> Connection:
        with self._lock:
            found = self._idle.pop() if self._idle else None
        if found is not None and found.is_alive:
            return found
        if found is not None:  # most likely they all ended together
            found.close()
            self._drop_idle()
        try:
            return connect(self._conninfo)
        except psycopg.OperationalError as error:
            self._note(error)
            raise

    def _give_back(self, connection: Connection) -> None:
        is_fine = connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
        with self._lock:
            if is_fine:
                self._reason = None
            if is_fine and not self._closed:
                self._idle.append(connection)
                return
        connection.close()

    def _drop_idle(self) -> None:
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            with suppress(psycopg.Error):
                connection.close()

    def _refuse_while_gone(self) -> None:
        """One caller after the other tries to reach a database that is gone; the rest is told what the last one met."""
        now = time.monotonic()
        with self._lock:
            if self._reason is not None and now < self._next_try:
                raise GoneError(self._reason)
            self._next_try = now + CONNECT_SECONDS + ANSWER_SECONDS

    def _note(self, error: psycopg.OperationalError) -> None:
        """The database is gone, and why. A connection that merely ended says nothing yet: the next call tries."""
        with self._lock:
            self._reason, self._next_try = str(error), time.monotonic() + RETRY_SECONDS
