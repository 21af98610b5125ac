"""One call of a client, over whichever front: its id, its deadline, and what became of it.

Both fronts wrap every call that does work in ``with engine.call(...)``; health and metrics pass by.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from types import TracebackType
from typing import Self, cast

from weightloom.errors import DeadlineExceeded, WeightloomError

__all__ = ["Call", "current_request_id"]

MAX_ID_LENGTH = 128
NO_ID = "-"
DEADLINE_SPARE_SECONDS = 0.1  # who cancels so shortly before the deadline has given up because of it

_current: ContextVar[str] = ContextVar("weightloom_request_id", default=NO_ID)
_prefix, _numbers = os.urandom(6).hex(), itertools.count(1)


def current_request_id() -> str:
    """The id of the call that this task works for, "-" outside of any: for log records."""
    return _current.get()


class Call:
    """A context manager; when it is left, ``on_end`` is told.

    front: "rest" or "grpc". name: the call in snake case, such as "fabricate". request_id: the client's own where it is
    printable ASCII of at most 128 characters, else a new one. timeout: seconds until the client gives up, or None.
    traceparent: the W3C header that says to which trace the call belongs, as it came, or "".
    code: "ok", an error's code, or "cancelled". queue, compute and send are seconds; bytes were sent, elements made.
    key: the id of the API key that came, or "". held: bytes of the gate's, and entered: when it was let through; both
    are the gate's own.
    """

    __slots__ = (
        "_on_end", "_token", "began", "code", "compute", "deadline", "elements", "entered", "front", "held", "key",
        "model", "name", "queue", "request_id", "seconds", "send", "sent_bytes", "traceparent",
    )  # fmt: skip

    def __init__(
        self,
        on_end: Callable[[Call], None],
        front: str,
        name: str,
        request_id: str = "",
        timeout: float | None = None,
        traceparent: str = "",
    ) -> None:
        self._on_end, self.front, self.name, self.traceparent = on_end, front, name, traceparent
        self.request_id = request_id if _is_fit(request_id) else f"{_prefix}-{next(_numbers):x}"
        self.began = time.perf_counter()
        self.expires_in(timeout)
        self.code, self.model, self.sent_bytes, self.elements = "ok", "", 0, 0
        self.key = ""
        self.held, self.entered = 0, cast(float | None, None)
        self.seconds = self.queue = self.compute = self.send = 0.0

    def __enter__(self) -> Self:
        self._token = _current.set(self.request_id)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if error is not None:
            self.failed(error)
        self.seconds = time.perf_counter() - self.began
        self._on_end(self)
        _current.reset(self._token)

    def expires_in(self, seconds: float | None) -> None:
        """Set the deadline, counted from the call's beginning."""
        self.deadline = None if seconds is None else self.began + seconds

    @asynccontextmanager
    async def in_time(self) -> AsyncIterator[None]:
        """Raise DeadlineExceeded where this context lasts beyond the deadline."""
        limit = asyncio.timeout(self.remaining)
        try:
            async with limit:
                yield
        except TimeoutError:
            if not limit.expired():
                raise
            raise DeadlineExceeded("the deadline that the client gave has passed") from None

    def failed(self, error: BaseException) -> None:
        """Note how the call ends, for fronts that turn the error into a reply inside of the context."""
        if isinstance(error, WeightloomError):
            self.code = error.code
        else:
            self.code = self._cancelled if isinstance(error, asyncio.CancelledError) else "internal"

    @property
    def _cancelled(self) -> str:
        """gRPC cancels a call whose deadline passes: here, or first at the client, who counts from when it sent it."""
        late = self.deadline is not None and time.perf_counter() >= self.deadline - DEADLINE_SPARE_SECONDS
        return "deadline_exceeded" if late else "cancelled"

    @property
    def remaining(self) -> float | None:
        """Seconds until the deadline; None without one. Raises DeadlineExceeded where none are left."""
        if self.deadline is None:
            return None
        left = self.deadline - time.perf_counter()
        if left <= 0:
            raise DeadlineExceeded("the deadline that the client gave has passed")
        return left


def _is_fit(request_id: str) -> bool:
    return 0 < len(request_id) <= MAX_ID_LENGTH and request_id.isascii() and request_id.isprintable()
