"""What comes from a client: headers, its body (never more of it than the limit), and that it went away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.types import Message, Receive, Scope

from weightloom.errors import DeadlineExceeded, LimitExceeded, WeightloomError

__all__ = ["ClientGoneError", "Headers", "cancelled_when_gone", "read_body", "replay"]


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

    def body_bytes(self, otherwise: int = 0) -> int:
        """The body's length where it was announced; HTTP/1.1 may send one without."""
        return int(self._values.get(b"content-length", otherwise))


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


async def read_body(
    headers: Headers, receive: Receive, limit: int, stall_seconds: float, setting: str = "max_request_bytes"
) -> bytes:
    """The whole body. Raises LimitExceeded as soon as it is known to be longer, DeadlineExceeded where nothing more
    comes for ``stall_seconds``, and ClientGoneError where it breaks off.
    """
    if (announced := headers.body_bytes()) > limit:
        raise _too_large(announced, limit, setting)
    parts: list[bytes] = []
    seen, more = 0, True
    while more:
        message = await _soon(receive, stall_seconds)
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        parts.append(message.get("body", b""))
        seen, more = seen + len(parts[-1]), message.get("more_body", False)
        if seen > limit:
            raise _too_large(seen, limit, setting)
    return parts[0] if len(parts) == 1 else b"".join(parts)


async def _soon(receive: Receive, seconds: float) -> Message:
    try:
        async with asyncio.timeout(seconds):
            return await receive()
    except TimeoutError:
        message = f"nothing more of the body came for {seconds:g} s (setting stall_seconds)"
        raise DeadlineExceeded(message, code="sender_stalled") from None


def replay(body: bytes, receive: Receive) -> Receive:
    """``receive`` for those to whom a body that was read already must come once more."""
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> Message:
        return waiting.pop() if waiting else await receive()

    return replayed


def _too_large(size: int, limit: int, setting: str) -> WeightloomError:
    expected = f"at most {limit} (setting {setting})"
    return LimitExceeded.at("body", f"{size} bytes or more", expected, code="body_too_large")
