"""What comes from a client: headers, its body (never more of it than the limit), and that it went away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.types import Message, Receive, Scope

from weightloom.errors import LimitExceeded, WeightloomError

__all__ = ["ClientGoneError", "Headers", "cancelled_when_gone", "limit_body", "read_body"]


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


async def read_body(headers: Headers, receive: Receive, limit: int, setting: str = "max_request_bytes") -> bytes:
    """The whole body. Raises LimitExceeded as soon as it is known to be longer, ClientGoneError where it breaks off."""
    receive = limit_body(headers, receive, limit, setting)
    parts: list[bytes] = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return parts[0] if len(parts) == 1 else b"".join(parts)


def limit_body(headers: Headers, receive: Receive, limit: int, setting: str = "max_request_bytes") -> Receive:
    """``receive``, but raising LimitExceeded where more than ``limit`` bytes come or are announced."""
    announced, seen = headers.body_bytes(), 0

    async def limited() -> Message:
        nonlocal seen
        if announced > limit:
            raise _too_large(announced, limit, setting)
        message = await receive()
        seen += len(message.get("body", b""))
        if seen > limit:
            raise _too_large(seen, limit, setting)
        return message

    return limited


def _too_large(size: int, limit: int, setting: str) -> WeightloomError:
    expected = f"at most {limit} (setting {setting})"
    return LimitExceeded.at("body", f"{size} bytes or more", expected, code="body_too_large")
