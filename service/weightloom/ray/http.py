"""REST in a replica: Ray starts uvicorn there, and it shall speak HTTP as our own server does."""

from __future__ import annotations

from typing import Any

import uvicorn.protocols.http.auto
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from weightloom.engine import Call
from weightloom.errors import Unavailable
from weightloom.rest import problems
from weightloom.rest.transport import ABORT, HeadLimits, TileProtocol, tile_protocol
from weightloom.settings import Settings

__all__ = ["NOT_STRAIGHT", "mounted", "use_tile_protocol"]

# Ray would else read each body ahead into memory, whole, lest it miss a client that goes away; we see that ourselves.
WE_SEE_WHO_GOES = (b"x-request-disconnect-disabled", b"?1")
REQUEST_ID = b"x-request-id"
NOT_STRAIGHT = Unavailable("this replica is not known to HAProxy yet: ask again in a moment", code="not_straight")


def use_tile_protocol(settings: Settings) -> None:
    """Let every uvicorn that starts in this process from now on use our protocol, with the settings' limits."""
    limits = HeadLimits(settings.max_header_bytes, settings.header_seconds)
    base: Any = tile_protocol(settings.stall_seconds, limits)
    uvicorn.protocols.http.auto.AutoHTTPProtocol = type("ReplicaProtocol", (_Mixin, base), {})


class _Mixin(TileProtocol):
    def on_headers_complete(self) -> None:
        """The last header of a name is the one that Ray takes."""
        self.headers.append(WE_SEE_WHO_GOES)
        super().on_headers_complete()


def mounted(app: ASGIApp) -> ASGIApp:
    """``app`` as Ray is to call it: without the header X-Request-ID in its replies, which Ray adds itself (the same).

    A request that did not come straight is told to come again. Ray's Python proxy brings such ones while HAProxy does
    not know the replica yet; it would take in the whole file however slow the reader.
    """

    async def wrapped(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and ABORT not in scope.get("extensions", {}):
            with Call(lambda call: None, "rest", "other") as call:
                await problems.response_of(NOT_STRAIGHT, call)(scope, receive, send)
            return

        async def send_on(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [field for field in message["headers"] if field[0] != REQUEST_ID]
            await send(message)

        await app(scope, receive, send_on)

    return wrapped
