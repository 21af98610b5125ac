"""Giving up a call that runs in another thread."""

from __future__ import annotations

import threading
from contextvars import ContextVar

from weightloom_client.errors import WeightloomClientError

__all__ = ["ABORT", "AbortedError", "check_aborted"]

# Set by who wants to give up the calls of a context (see ``aio``).
ABORT: ContextVar[threading.Event | None] = ContextVar("weightloom_abort", default=None)


class AbortedError(WeightloomClientError):
    """The caller has given the call up."""


def check_aborted() -> None:
    """Raise AbortedError where the call that runs in this context was given up."""
    abort = ABORT.get()
    if abort is not None and abort.is_set():
        raise AbortedError("the call was cancelled")
