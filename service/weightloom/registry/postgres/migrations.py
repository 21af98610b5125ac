"""The tables in PostgreSQL, as numbered migrations. Never edit one that has been released; add the next.

They lie in a schema of their own: nothing else in the database can be in their way, whatever its search_path.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from weightloom.registry.migrations import refuse_newer
from weightloom.registry.postgres.connection import ANSWER_SECONDS, Connection

__all__ = ["MIGRATIONS", "migrate"]

Migration = tuple[int, str, str]
LOCK = 0x7765_6674  # of this program, among the advisory locks of a database
WAIT_SECONDS = 60  # for others that migrate, and for a migration

CREATE_MODELS = """
CREATE TABLE weightloom.models (
    name TEXT COLLATE "C" PRIMARY KEY,          -- sorted by code points
    digest TEXT COLLATE "C" NOT NULL UNIQUE,
    spec BYTEA NOT NULL,                        -- canonical JSON
    tensors BIGINT NOT NULL,
    numel NUMERIC NOT NULL,                     -- elements of all W's; can be more than 64 bits hold
    w_numbers NUMERIC NOT NULL,                 -- lengths of all w's; likewise
    created_at TEXT NOT NULL,
    residency TEXT                              -- NULL: the server's setting decides
);
ALTER TABLE weightloom.models ALTER COLUMN spec SET STORAGE EXTERNAL;  -- read far more often than written
CREATE TABLE weightloom.imported (              -- which models (by digest) need which blobs of imported factors
    factors TEXT COLLATE "C" NOT NULL,
    model TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (model, factors)
);
CREATE TABLE weightloom.state (                 -- one row: who writes locks it, so that one writes after the other
    version BIGINT NOT NULL,                    -- counts all that was written
    changes BIGINT NOT NULL                     -- counts what was deleted or changed: what others remember may be old
);
INSERT INTO weightloom.state VALUES (0, 0)
"""

CREATE_KEYS = """
CREATE TABLE weightloom.api_keys (              -- a revoked one stays, so that it is known as such
    id TEXT COLLATE "C" PRIMARY KEY,
    name TEXT NOT NULL,
    secret_sha256 TEXT NOT NULL,
    scopes TEXT NOT NULL,                       -- separated by spaces
    created_at TEXT COLLATE "C" NOT NULL,
    expires_at TEXT,
    revoked_at TEXT,
    requests_per_minute BIGINT,
    bytes_per_minute BIGINT
)
"""

MIGRATIONS: tuple[Migration, ...] = ((1, "create models", CREATE_MODELS), (2, "create API keys", CREATE_KEYS))


def migrate(connection: Connection) -> None:
    """Apply what is missing, in one transaction; safe when many processes start at once.

    Where nothing is missing nothing is locked or written. Raises Unavailable where the tables are a newer server's.
    """
    if not _missing(connection):
        return
    with _patience(connection), connection.transaction():
        connection.execute(f"SET LOCAL lock_timeout = '{WAIT_SECONDS}s'")
        connection.execute(f"SET LOCAL statement_timeout = '{WAIT_SECONDS}s'")
        connection.execute("SELECT pg_advisory_xact_lock(%s)", (LOCK,))
        if not _exists(connection, "to_regnamespace('weightloom')"):
            connection.execute("CREATE SCHEMA weightloom")
        connection.execute(
            "CREATE TABLE IF NOT EXISTS weightloom.migrations "
            "(number INTEGER PRIMARY KEY, name TEXT NOT NULL, applied_at TEXT)"
        )
        for number, name, statements in _missing(connection):
            connection.execute(statements)
            row = (number, name, datetime.now(UTC).isoformat())
            connection.execute("INSERT INTO weightloom.migrations VALUES (%s, %s, %s)", row)


def _missing(connection: Connection) -> list[Migration]:
    if not _exists(connection, "to_regclass('weightloom.migrations')"):
        return list(MIGRATIONS)
    applied = {number for (number,) in connection.execute("SELECT number FROM weightloom.migrations")}
    refuse_newer(applied, {number for number, *_ in MIGRATIONS})
    return [migration for migration in MIGRATIONS if migration[0] not in applied]


def _exists(connection: Connection, what: str) -> bool:
    row = connection.execute(f"SELECT {what} IS NOT NULL").fetchone()
    return row is not None and bool(row[0])


@contextmanager
def _patience(connection: Connection) -> Iterator[None]:
    connection.answer_seconds = WAIT_SECONDS + ANSWER_SECONDS
    try:
        yield
    finally:
        connection.answer_seconds = ANSWER_SECONDS
