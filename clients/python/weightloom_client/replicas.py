"""Several servers that serve the same bits: which one is asked next."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from typing import TypeVar

from weightloom_client.errors import ServerBusy, WeightloomClientError
from weightloom_client.protocol import Broken, RetryPolicy, Tries
from weightloom_client.transports import Transport

__all__ = ["ABORT", "AbortedError", "Replicas"]

T = TypeVar("T")

# Set by who wants to give up a call that runs in another thread (see ``aio``).
ABORT: ContextVar[threading.Event | None] = ContextVar("weightloom_abort", default=None)


class AbortedError(WeightloomClientError):
    """The caller has given the call up."""


class Replicas:
    """``transports`` to servers that have the same models. Safe to use from many threads."""

    def __init__(self, transports: Sequence[Transport], policy: RetryPolicy) -> None:
        self.transports, self.policy = tuple(transports), policy
        self._preferred = 0

    def __len__(self) -> int:
        return len(self.transports)

    def cursor(self, shift: int = 0) -> Cursor:
        """For one call, or one part of one: ``shift`` places behind the replica that answered last."""
        return Cursor(self, self._preferred + shift)

    def prefer(self, place: int) -> None:
        """Begin with this replica from now on."""
        self._preferred = place

    def call(self, ask: Callable[[Transport], T]) -> T:
        """What ``ask`` gives, from the first replica that answers. Raises ServerError, ServerUnreachable."""
        cursor = self.cursor()
        while True:
            try:
                return ask(cursor.transport)
            except (Broken, ServerBusy) as error:
                cursor.failed(error)


class Cursor:
    """The replica that a call is at, and what its tries have come to."""

    def __init__(self, replicas: Replicas, place: int) -> None:
        self._replicas, self._place = replicas, place % len(replicas)
        self._tries, self._abort = Tries(replicas.policy, len(replicas)), ABORT.get()

    @property
    def transport(self) -> Transport:
        """The replica to ask now."""
        return self._replicas.transports[self._place]

    def progressed(self) -> None:
        """A byte has come. Raises AbortedError where nobody wants it any more."""
        self._tries.progressed()
        if self._abort is not None and self._abort.is_set():
            raise AbortedError("the call was cancelled")

    def failed(self, error: Broken | ServerBusy) -> None:
        """Go on to the next replica, after a pause where all have failed. Raises where no try is left."""
        pause = self._tries.failed(error)
        self._place = (self._place + 1) % len(self._replicas)
        self._replicas.prefer(self._place)
        if (self._abort or threading.Event()).wait(pause):
            raise AbortedError("the call was cancelled") from error
