"""What comes from a client: headers, its body (never more of it than the limit), and that it went away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from starlette.types import Message, Receive, Scope

from weightloom.engine.keys import bearer
from weightloom.engine.limits import MIN_BODY_RATE, BodyPace
from weightloom.errors import DeadlineExceeded, LimitExceeded, WeightloomError

__all__ = [
    "BodyLimit",
    "ClientGoneError",
    "Headers",
    "body_parts",
    "cancelled_when_gone",
    "limit_body",
    "read_body",
    "replay",
]


class ClientGoneError(Exception):
    """The client went away; nobody is left to answer."""


class Headers:
    """A request's headers by lower-case name, the values of one that came more than once joined by commas."""

    __slots__ = ("_values",)

    def __init__(self, scope: Scope) -> None:
        values: dict[bytes, bytes] = {}
        for name, value in scope["headers"]:
            values[name] = values[name] + b", " + value if name in values else value
        self._values = values

    def get(self, name: bytes) -> str:
        """A header's value, or ""."""
        value = self._values.get(name)
        return "" if value is None else value.decode("latin-1")

    @property
    def token(self) -> str:
        """The bearer's token, or ""."""
        return bearer(self.get(b"authorization"))

    def body_bytes(self) -> int:
        """The body's length where it was announced, else 0; HTTP/1.1 may send one without."""
        return int(self._values.get(b"content-length", 0))


@asynccontextmanager
async def cancelled_when_gone(receive: Receive) -> AsyncIterator[None]:
    """Cancel what runs in this context when the client goes away, and raise ClientGoneError then."""
    task = asyncio.current_task()
    assert task is not None

    async def watch() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        task.cancel()

    watcher = asyncio.ensure_future(watch())
    try:
        yield
    except asyncio.CancelledError:
        if watcher.done() and not watcher.cancelled() and task.uncancel() == 0:
            raise ClientGoneError from None
        raise
    finally:
        watcher.cancel()


async def body_parts(receive: Receive) -> AsyncIterator[bytes]:
    """The body as it comes. Raises ClientGoneError where it breaks off."""
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        more = message.get("more_body", False)
        yield message.get("body", b"")


async def read_body(receive: Receive) -> bytes:
    """The whole body. Raises ClientGoneError where it breaks off."""
    parts = [part async for part in body_parts(receive)]
    return parts[0] if len(parts) == 1 else b"".join(parts)


@dataclass(frozen=True)
class BodyLimit:
    """size: in bytes, and ``what`` sets it, for people. seconds: of its ``BodyPace``. count: is told of each part."""

    size: int
    what: str
    seconds: float
    count: Callable[[int], None]


def limit_body(headers: Headers, receive: Receive, limit: BodyLimit) -> Receive:
    """``receive``, but raising LimitExceeded for a body that is longer, DeadlineExceeded for one that does not come."""
    announced, pace, ended = headers.body_bytes(), BodyPace(limit.seconds), False
    time = asyncio.get_running_loop().time

    async def limited() -> Message:
        nonlocal ended
        if announced > limit.size:
            raise _too_large(announced, limit)
        began = time()
        message = await (receive() if ended else _next_part(receive, pace.left, limit.seconds))
        size = len(message.get("body", b""))
        pace.came(size, time() - began)
        ended = not message.get("more_body", False)
        if pace.seen > limit.size:
            raise _too_large(pace.seen, limit)
        limit.count(size)
        return message

    return limited


async def _next_part(receive: Receive, seconds: float, stall_seconds: float) -> Message:
    patience = asyncio.timeout(seconds)
    try:
        async with patience:
            return await receive()
    except TimeoutError:
        if not patience.expired():
            raise
        rate = f"or less than {MIN_BODY_RATE} bytes a second beyond them"
        message = f"no byte of the request's body came for {stall_seconds:g} s (setting stall_seconds), {rate}"
        raise DeadlineExceeded(message, code="sender_stalled") from None


def replay(body: bytes, receive: Receive) -> Receive:
    """``receive`` for those to whom a body that was read already must come once more."""
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> Message:
        return waiting.pop() if waiting else await receive()

    return replayed


def _too_large(size: int, limit: BodyLimit) -> WeightloomError:
    expected = f"at most {limit.size} ({limit.what})"
    return LimitExceeded.at("body", f"{size} bytes or more", expected, code="body_too_large")
