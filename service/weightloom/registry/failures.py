"""What a failing SQLite file means to the people who run the server."""

from __future__ import annotations

import sqlite3

__all__ = ["ReplacedError", "explain", "is_busy"]

ADVICE = {
    sqlite3.SQLITE_FULL: "free some space on its disk",
    sqlite3.SQLITE_IOERR: "its disk fails, is full or over a quota; the system's log may say more",
    sqlite3.SQLITE_READONLY: "make the file and its folder writable for this process",
    sqlite3.SQLITE_BUSY: "another program holds a lock on it; end that program, or try again later",
    sqlite3.SQLITE_CANTOPEN: "see that its folder is there and that this process may read and write in it",
    sqlite3.SQLITE_CORRUPT: "restore it from a backup",
    sqlite3.SQLITE_NOTADB: "restore it from a backup",
}


class ReplacedError(OSError):
    """The file that a connection holds is no longer the one at its path: what is written to it would be lost."""


def explain(error: Exception) -> str:
    """What is wrong, and what to do about it where that is known."""
    advice = ADVICE.get(_primary_code(error))
    return f"{error}; {advice}" if advice else str(error)


def is_busy(error: Exception) -> bool:
    """Whether somebody else was writing: no failure, but no success either."""
    return isinstance(error, TimeoutError) or _primary_code(error) == sqlite3.SQLITE_BUSY


def _primary_code(error: Exception) -> int:
    code = getattr(error, "sqlite_errorcode", None)  # absent where Python itself refused, or for an OSError
    return code & 0xFF if isinstance(code, int) else -1
