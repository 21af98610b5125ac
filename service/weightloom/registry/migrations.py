"""The registry's tables, as numbered migrations. Never edit one that has been released; add the next."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection
from datetime import UTC, datetime

from weightloom.errors import Unavailable

__all__ = ["MIGRATIONS", "migrate", "refuse_newer"]

Migration = tuple[int, str, Callable[[sqlite3.Connection], None]]


def _create_models(connection: sqlite3.Connection) -> None:
    connection.execute(
        """
        CREATE TABLE models (
            name TEXT PRIMARY KEY,
            digest TEXT NOT NULL,
            spec BLOB NOT NULL,          -- canonical JSON
            tensors INTEGER NOT NULL,
            numel TEXT NOT NULL,         -- elements of all W's; can be more than SQLite's integers hold
            w_numbers TEXT NOT NULL,     -- lengths of all w's; likewise
            created_at TEXT NOT NULL
        )
        """
    )
    connection.execute("CREATE UNIQUE INDEX models_by_digest ON models (digest)")


def _add_residency(connection: sqlite3.Connection) -> None:
    connection.execute("ALTER TABLE models ADD COLUMN residency TEXT")  # NULL: the server's setting decides


def _add_imported(connection: sqlite3.Connection) -> None:
    """Which models (by digest) need which blobs of imported factors."""
    connection.execute(
        "CREATE TABLE imported (factors TEXT NOT NULL, model TEXT NOT NULL, PRIMARY KEY (model, factors)) WITHOUT ROWID"
    )


def _create_keys(connection: sqlite3.Connection) -> None:
    """API keys; a revoked one stays, so that it is known as such."""
    connection.execute(
        """
        CREATE TABLE api_keys (
            id TEXT PRIMARY KEY,
            name TEXT NOT NULL,
            secret_sha256 TEXT NOT NULL,
            scopes TEXT NOT NULL,        -- separated by spaces
            created_at TEXT NOT NULL,
            expires_at TEXT,
            revoked_at TEXT,
            requests_per_minute INTEGER,
            bytes_per_minute INTEGER
        )
        """
    )


MIGRATIONS: tuple[Migration, ...] = (
    (1, "create models", _create_models),
    (2, "add residency", _add_residency),
    (3, "add imported factors", _add_imported),
    (4, "create API keys", _create_keys),
)


def migrate(connection: sqlite3.Connection) -> None:
    """Apply what is missing, in one transaction; safe when several processes start at once.

    Where nothing is missing, nothing is written: a file that can only be read at the moment can still be served.
    """
    if not _missing(connection):
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        connection.execute(
            "CREATE TABLE IF NOT EXISTS migrations (number INTEGER PRIMARY KEY, name TEXT NOT NULL, applied_at TEXT)"
        )
        for number, name, change in _missing(connection):
            change(connection)
            now = datetime.now(UTC).isoformat()
            connection.execute("INSERT INTO migrations VALUES (?, ?, ?)", (number, name, now))
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("ROLLBACK")
        raise


def _missing(connection: sqlite3.Connection) -> list[Migration]:
    begun = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'migrations'").fetchone()
    applied = {number for (number,) in connection.execute("SELECT number FROM migrations")} if begun else set()
    refuse_newer(applied, {number for number, *_ in MIGRATIONS})
    return [migration for migration in MIGRATIONS if migration[0] not in applied]


def refuse_newer(applied: Collection[int], known: Collection[int]) -> None:
    """Raise Unavailable where somebody has ``applied`` migrations that this server does not know."""
    if newer := set(applied) - set(known):
        raise Unavailable(
            f"the registry has migration {max(newer)} of a newer weightloom, and this one knows {max(known)} at most; "
            "start the newer version"
        )
