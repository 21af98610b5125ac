"""What a failing PostgreSQL means to the people who run the server."""

from __future__ import annotations

import psycopg

__all__ = ["ADVICE", "SilentError", "explain", "is_busy", "was_cut"]

ADVICE = {
    "25006": "it takes no writes now (a standby, or set to read only); name the primary in registry_url",
    "42501": "let the user of registry_url own the database, or its schema weightloom",
    "53100": "free some space on its disk",
    "55P03": "another transaction holds a lock; end it, or try again later",
    "57014": "it took too long; see what keeps the database busy",
}
BUSY = {"40001", "40P01", "55P03"}  # serialization failure, deadlock, lock not available
CUT = ("08", "57")  # classes of errors that end a connection, or what it was doing


class SilentError(psycopg.OperationalError):
    """The database is connected and does not answer."""


def explain(error: psycopg.Error) -> str:
    """What is wrong, in one line, and what to do about it where that is known."""
    told = str(error).strip().partition("\n")[0] or type(error).__name__
    advice = ADVICE.get(error.sqlstate or "")
    return f"{told}; {advice}" if advice else told


def is_busy(error: psycopg.Error) -> bool:
    """Whether somebody else was writing: no failure, but no success either."""
    return error.sqlstate in BUSY


def was_cut(error: psycopg.Error) -> bool:
    """Whether the connection, or what it was doing, was ended from outside: what was asked may be done or not."""
    return error.sqlstate is None or error.sqlstate[:2] in CUT
