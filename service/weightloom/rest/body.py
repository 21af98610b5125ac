"""Reading request bodies, never more of them than the limit."""

from __future__ import annotations

from starlette.types import Message, Receive, Scope

from weightloom.errors import LimitExceeded, WeightloomError

__all__ = ["ClientGoneError", "limit_body", "read_body"]


class ClientGoneError(Exception):
    """The client went away before its request was whole; nobody is left to answer."""


async def read_body(scope: Scope, receive: Receive, limit: int, setting: str = "max_request_bytes") -> bytes:
    """The whole body. Raises LimitExceeded as soon as it is known to be longer, ClientGoneError where it breaks off."""
    receive = limit_body(scope, receive, limit, setting)
    parts: list[bytes] = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return parts[0] if len(parts) == 1 else b"".join(parts)


def limit_body(scope: Scope, receive: Receive, limit: int, setting: str = "max_request_bytes") -> Receive:
    """``receive``, but raising LimitExceeded where more than ``limit`` bytes come or are announced."""
    announced = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
    announced_bytes = int(announced)
    seen = 0

    async def limited() -> Message:
        nonlocal seen
        if announced_bytes > limit:
            raise _too_large(announced_bytes, limit, setting)
        message = await receive()
        seen += len(message.get("body", b""))
        if seen > limit:
            raise _too_large(seen, limit, setting)
        return message

    return limited


def _too_large(size: int, limit: int, setting: str) -> WeightloomError:
    expected = f"at most {limit} (setting {setting})"
    return LimitExceeded.at("body", f"{size} bytes or more", expected, code="body_too_large")
