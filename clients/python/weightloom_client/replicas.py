"""Several servers that serve the same bits: which one is asked next."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from weightloom_client.abort import ABORT, AbortedError
from weightloom_client.errors import ServerBusy, ServerFailed
from weightloom_client.protocol import Broken, RetryPolicy, Tries
from weightloom_client.transports import Transport

__all__ = ["RETRIED", "Cursor", "Replicas"]

T = TypeVar("T")
RETRIED = (Broken, ServerBusy, ServerFailed)  # after which another try may go better, of the latter on another replica
GLANCE = 0.1  # seconds between looks at whether a call that pauses was given up


class Replicas:
    """``transports`` to servers that have the same models. streams: over how many a large file comes at once; None is
    one for each transport. Safe to use from many threads. Raises ValueError for less than one stream.
    """

    def __init__(self, transports: Sequence[Transport], policy: RetryPolicy, streams: int | None = None) -> None:
        if streams is not None and streams < 1:
            raise ValueError(f"streams: got {streams}, expected at least 1, or None")
        self.transports, self.policy, self.streams = tuple(transports), policy, streams or len(transports)
        self._preferred, self._is_closed = 0, False

    def __len__(self) -> int:
        return len(self.transports)

    def close(self) -> None:
        """Close all connections."""
        self._is_closed = True
        for transport in self.transports:
            transport.close()

    def cursor(self, shift: int = 0) -> Cursor:
        """For one call, or one part of one: ``shift`` places behind the replica that answered last."""
        if self._is_closed:
            raise RuntimeError("the client is closed")
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
            except RETRIED as error:
                cursor.failed(error)


class Cursor:
    """The replica that a call is at, and what its tries have come to. ``abandon`` may come from any thread."""

    def __init__(self, replicas: Replicas, place: int) -> None:
        self._replicas, self._place = replicas, place % len(replicas)
        self._tries, self._abort = Tries(replicas.policy, len(replicas)), ABORT.get()
        self._abandoned = threading.Event()

    @property
    def transport(self) -> Transport:
        """The replica to ask now."""
        return self._replicas.transports[self._place]

    def progressed(self) -> None:
        """A byte has come. Raises AbortedError where nobody wants it any more."""
        self._tries.progressed()
        self.check()

    def failed(self, error: Broken | ServerBusy | ServerFailed) -> None:
        """Go on to the next replica, after a pause where it needs one. Raises where no try is left."""
        self.check()
        self._place, pause = self._tries.failed(error, self._place)
        self._replicas.prefer(self._place)
        until = time.monotonic() + pause
        while (left := until - time.monotonic()) > 0:
            self._abandoned.wait(min(left, GLANCE))
            self.check()

    def abandon(self) -> None:
        """Let the call end with AbortedError as soon as it can."""
        self._abandoned.set()

    def check(self) -> None:
        """Raise AbortedError where the call was abandoned."""
        if self._abandoned.is_set() or (self._abort is not None and self._abort.is_set()):
            raise AbortedError("the call was cancelled")
