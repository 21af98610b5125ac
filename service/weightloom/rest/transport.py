"""HTTP/1.1 as uvicorn speaks it, except that a tile is written to the socket with the GIL released (``sockets.py``).

A request's head has bounds here that uvicorn does not set: its size, its number of headers, and the time in which it
comes; so has the number of requests that wait behind one that is being answered (pipelining): uvicorn reads on, and
keeps some kilobytes for each. What is refused before the application sees it is told by the documents of all errors.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from dataclasses import dataclass

from starlette.types import Receive, Scope
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from weightloom.engine import Call
from weightloom.rest import problems
from weightloom.rest.sockets import DirectTransport, LingeringTransport

__all__ = ["ABORT", "HeadLimits", "TileProtocol", "cut_off", "tile_protocol"]

log = logging.getLogger(__name__)

ABORT = "weightloom.abort"
MAX_HEADERS = 256
MAX_PIPELINED = 64  # requests that wait for the reply to an earlier one on their connection
LINGER_SECONDS = 2.0


@dataclass(frozen=True)
class HeadLimits:
    """Of a request's line and headers: bytes, and seconds in which all of them must have come."""

    size: int = 1 << 16
    seconds: float = 30.0

    @property
    def too_large(self) -> str:
        """What is said of a longer one."""
        size = f"longer than {self.size} bytes (setting max_header_bytes)"
        return f"the request's line and headers are {size}, or there are more than {MAX_HEADERS} headers"


class TileProtocol(HttpToolsProtocol):
    """uvicorn's protocol over a transport that writes large buffers itself, with bounds for a request's head."""

    stall_seconds: float = 60.0
    head: HeadLimits = HeadLimits()

    _linger: asyncio.TimerHandle | None = None  # where a request was refused: when the connection closes

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wrap plain TCP transports; over TLS only the transport can write."""
        sock = transport.get_extra_info("socket")
        plain = transport.get_extra_info("sslcontext") is None and sock is not None
        if sock is not None and hasattr(socket, "TCP_USER_TIMEOUT"):
            # The last bytes of a reply wait in buffers where no handler sees a stalled reader; the system does. It has
            # twice the time, so that a handler that does see one is first, and can say why.
            milliseconds = min(int(2000 * self.stall_seconds), (1 << 31) - 1)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)
        super().connection_made(DirectTransport(transport) if plain else transport)  # type: ignore[arg-type]
        self.flow = _Flow(self)
        self._in_head, self._too_large, self._too_many = False, False, False
        self._answered: RequestResponseCycle | None = None  # with pipelining not the last one, which is self.cycle
        self._outside = 0  # bytes since the last whole head or part of a body
        self._awaited_since: float | None = self.loop.time()  # since when there is no request; None while there is one
        self._watch = self.loop.call_later(self.head.seconds, self._watch_head)

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is waited for any more."""
        super().connection_lost(exc)
        if self._answered is not None:  # uvicorn tells the last request alone; this one would write on into nothing
            self._answered.disconnected = True
            self._answered.message_event.set()
        self._watch.cancel()
        if self._linger is not None:
            self._linger.cancel()

    def data_received(self, data: bytes) -> None:
        """Parse what came, unless the connection is only kept until the client has read why it was refused."""
        if self._linger is not None or self._too_many:
            return
        self._outside += len(data)
        if self.timeout_keep_alive_task is not None:
            self._awaited_since = self.loop.time()  # the head that ends an idle time has its own from here on
        super().data_received(data)
        if self._outside > self.head.size and self._linger is None:
            self._refuse(431, self.head.too_large)

    def on_message_begin(self) -> None:
        """Offer the application a way to cut the connection."""
        super().on_message_begin()
        self._unset_keepalive_if_required()  # it may come together with the end of a body that was answered before
        self._in_head = True
        self.scope["extensions"] = {ABORT: self.transport.abort}  # type: ignore[dict-item]

    def on_header(self, name: bytes, value: bytes) -> None:
        """Leave trailers away: behind a body they would still change what was asked for."""
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The request begins, where its head is within the limits."""
        size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        if size > self.head.size or len(self.headers) > MAX_HEADERS:
            self._too_large = True
            raise ValueError(self.head.too_large)  # the parser stops, and send_400_response is called
        if len(self.pipeline) >= MAX_PIPELINED:
            self._too_many, self.cycle.keep_alive = True, False  # the last that waits is answered, and closes
            self.cycle.transport = LingeringTransport(self.transport, self._close_in_a_while)  # type: ignore[assignment]
            raise ValueError("too many requests wait for replies")
        self._in_head, self._outside, self._awaited_since = False, 0, None
        super().on_headers_complete()
        if not self.pipeline:
            self._answered = self.cycle
        if self.parser.should_upgrade():
            self.cycle.keep_alive = False  # the parser reads nothing behind a request for another protocol

    def on_body(self, body: bytes) -> None:
        """A part of the body."""
        self._outside = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is whole. Where it was answered before, the connection is idle only now."""
        super().on_message_complete()
        if self.cycle.response_complete and not self.transport.is_closing():
            self._awaited_since = self.loop.time()
            self._unset_keepalive_if_required()
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def on_response_complete(self) -> None:
        """Wait for the next head, if it has not come already."""
        if self.pipeline:
            self._answered = self.pipeline[-1][0]
        else:
            self._awaited_since = self.loop.time()
        super().on_response_complete()
        if self._in_head:
            self._unset_keepalive_if_required()  # it has begun: the connection is not idle

    def send_400_response(self, msg: str) -> None:
        """What the parser refused."""
        if self._too_many:
            log.info("a connection ends behind %d requests that wait for their replies", MAX_PIPELINED)
        elif self._too_large:
            self._refuse(431, self.head.too_large)
        else:
            self._refuse(400, "what came is not a request of HTTP/1.1")

    def _watch_head(self) -> None:
        """Look again and again whether the next head is late; idle connections are uvicorn's to close."""
        now, is_idle = self.loop.time(), self.timeout_keep_alive_task is not None
        since = now if self._awaited_since is None or is_idle else self._awaited_since
        left = since + self.head.seconds - now
        if left > 0:
            self._watch = self.loop.call_later(left, self._watch_head)
        elif self._in_head:
            expected = f"{self.head.seconds:g} s (setting header_seconds)"
            self._refuse(408, f"the request's line and headers did not come within {expected}")
        else:
            self.transport.close()

    def _refuse(self, status: int, detail: str) -> None:
        """Tell why no further request is read here, and close; only cut where a response would have it in its midst."""
        with Call(lambda call: None, "rest", "other") as call:  # for an id that log and document share
            log.info("a connection is closed with status %d: %s", status, detail)
            document = problems.problem(status, problems.ROUTING_CODES[status], detail)
        if self.pipeline or (self.cycle and self.cycle.response_started and not self.cycle.response_complete):
            self.transport.abort()
            return
        if self.cycle:
            self.cycle.disconnected = True  # what it would still say comes to nobody
            self.cycle.message_event.set()
        fields = {
            "content-type": problems.MEDIA_TYPE,
            "content-length": str(len(document)),
            "x-request-id": call.request_id,
            "connection": "close",
        }
        head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        self.transport.write(STATUS_LINE[status] + head.encode() + b"\r\n" + document)
        self._close_in_a_while()

    def _close_in_a_while(self) -> None:
        """Closed at once, with bytes unread, it would be reset, and the client might never see the answer."""
        self._watch.cancel()
        self._linger = self.loop.call_later(LINGER_SECONDS, self.transport.close)
        if self.transport.can_write_eof():
            self.transport.write_eof()


def tile_protocol(stall_seconds: float, head: HeadLimits) -> type[TileProtocol]:
    """The protocol, dropping connections whose peer takes nothing for so long."""
    return type("TileProtocol", (TileProtocol,), {"stall_seconds": stall_seconds, "head": head})


async def cut_off(scope: Scope, receive: Receive) -> None:
    """Cut the connection at once, whatever its buffers still hold: the client must not take what came for the whole."""
    scope["extensions"][ABORT]()
    while (await receive())["type"] != "http.disconnect":
        pass


class _Flow(FlowControl):
    """uvicorn's, which does not read on while requests wait that are there already."""

    def __init__(self, protocol: TileProtocol) -> None:
        super().__init__(protocol.transport)
        self._protocol = protocol

    def resume_reading(self) -> None:
        if not self._protocol.pipeline:
            super().resume_reading()
