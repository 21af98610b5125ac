"""One connection to PostgreSQL that waits for bounded time only."""

from __future__ import annotations

import selectors
import time
from typing import TypeVar

import psycopg
from psycopg.abc import PQGen
from psycopg.rows import TupleRow

from weightloom.registry.postgres.failures import SilentError

__all__ = ["ANSWER_SECONDS", "Connection", "connect"]

ANSWER_SECONDS = 3.0  # of silence, while the database owes an answer
INTERVAL = 0.1  # seconds
# The database's own limits are those of a server that was cut off or stopped in the middle of something.
PREPARE = """
SELECT set_config('lock_timeout', '2s', false), set_config('statement_timeout', '10s', false),
       set_config('idle_in_transaction_session_timeout', '10s', false),
       CASE WHEN current_setting('synchronous_commit') = 'off' THEN set_config('synchronous_commit', 'on', false) END,
       current_setting('server_encoding')
"""
SELECTOR = getattr(selectors, "PollSelector", selectors.SelectSelector)  # poll knows no highest descriptor

R = TypeVar("R")


class Connection(psycopg.Connection[TupleRow]):
    """A connection that waits for ``answer_seconds`` and not for ever."""

    answer_seconds = ANSWER_SECONDS

    def wait(self, gen: PQGen[R], interval: float = INTERVAL, timeout: float | None = None) -> R:
        """See psycopg. What fell silent is closed: its answer could come to another question."""
        try:
            return super().wait(_while_heard(gen, self.answer_seconds), interval)
        except SilentError:
            self.close()
            raise

    @property
    def is_alive(self) -> bool:
        """Whether nothing has come since the last answer: what comes unasked is the end of the connection."""
        if self.closed:
            return False
        with SELECTOR() as selector:
            selector.register(self.fileno(), selectors.EVENT_READ)
            return not selector.select(0)


def _while_heard(gen: PQGen[R], seconds: float) -> PQGen[R]:
    """The same conversation, given up when nothing came for so long; psycopg tells of that at each interval."""
    until = time.monotonic() + seconds
    try:
        wanted = next(gen)
        while True:
            ready = yield wanted
            now = time.monotonic()
            if ready:
                until = now + seconds
            elif now > until:
                raise SilentError(f"it did not answer within {seconds:g} s")
            wanted = gen.send(ready)
    except StopIteration as end:
        result: R = end.value
        return result


def connect(conninfo: str) -> Connection:
    """A connection that is ready to be used. Raises psycopg.Error."""
    connection = Connection.connect(conninfo, autocommit=True, prepare_threshold=None)  # poolers know no prepared ones
    try:
        connection.isolation_level = psycopg.IsolationLevel.READ_COMMITTED
        *_, encoding = connection.execute(PREPARE).fetchone() or ("",)
        if encoding != "UTF8":
            raise psycopg.NotSupportedError(f"its encoding is {encoding}; create the database with UTF8")
    except BaseException:
        connection.close()
        raise
    return connection
