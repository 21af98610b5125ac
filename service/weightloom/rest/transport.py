"""HTTP/1.1 as uvicorn speaks it, except that a tile is written to the socket with the GIL released.

uvloop calls write(2) with the GIL held. For a tile of 1 MiB that is some 250 microseconds in which no worker can take
its next tile; releasing it is worth a tenth of a bulk stream on two cores (docs/performance.md). uvloop still does all
the waiting: what the socket does not take at once goes to its own buffer, and while anything is in there, everything
goes behind it.
"""

from __future__ import annotations

import asyncio
import os
import socket
from typing import Any

from starlette.types import Receive, Scope
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

__all__ = ["TileProtocol", "cut_off", "tile_protocol"]

ABORT = "weightloom.abort"
DIRECT_BYTES = 1 << 16  # below it the write is too short for the detour


class TileProtocol(HttpToolsProtocol):
    """uvicorn's protocol over a transport that writes large buffers itself."""

    stall_seconds: float = 60.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wrap plain TCP transports; over TLS only the transport can write."""
        sock = transport.get_extra_info("socket")
        plain = transport.get_extra_info("sslcontext") is None and sock is not None
        if sock is not None and hasattr(socket, "TCP_USER_TIMEOUT"):
            # The last bytes of a reply wait in buffers where no handler sees a stalled reader; the system does. It has
            # twice the time, so that a handler that does see one is first, and can say why.
            milliseconds = min(int(2000 * self.stall_seconds), (1 << 31) - 1)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)
        super().connection_made(_DirectTransport(transport) if plain else transport)  # type: ignore[arg-type]

    def on_message_begin(self) -> None:
        """Offer the application a way to cut the connection."""
        super().on_message_begin()
        self.scope["extensions"] = {ABORT: self.transport.abort}  # type: ignore[dict-item]


def tile_protocol(stall_seconds: float) -> type[TileProtocol]:
    """The protocol, dropping connections whose peer takes nothing for so long."""
    return type("TileProtocol", (TileProtocol,), {"stall_seconds": stall_seconds})


async def cut_off(scope: Scope, receive: Receive) -> None:
    """Cut the connection at once, whatever its buffers still hold: the client must not take what came for the whole."""
    scope["extensions"][ABORT]()
    while (await receive())["type"] != "http.disconnect":
        pass


class _DirectTransport:
    """Everything is the inner transport's, but for ``write``."""

    def __init__(self, inner: Any) -> None:
        self._inner, self._descriptor = inner, inner.get_extra_info("socket").fileno()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def write(self, data: bytes | memoryview) -> None:
        if len(data) < DIRECT_BYTES or self._inner.get_write_buffer_size() or self._inner.is_closing():
            self._inner.write(data)
            return
        try:
            sent = os.write(self._descriptor, data)
        except OSError:  # full, or broken: the inner transport finds out which and acts on it
            sent = 0
        if sent < len(data):
            self._inner.write(memoryview(data)[sent:])
