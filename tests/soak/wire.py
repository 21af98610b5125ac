"""HTTP/1.1 over bare asyncio streams: no pool, no retries, no decoding; a client may do to it what it likes."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

__all__ = ["Connection", "CutError", "Head", "connect"]

CHUNK = 1 << 18
CONNECT_SECONDS = 60.0


class CutError(Exception):
    """The connection ended before the message was whole."""


@dataclass(frozen=True)
class Head:
    """The status line and headers of a reply; names in lower case."""

    status: int
    headers: dict[str, str]

    @property
    def length(self) -> int:
        """Bytes of the body."""
        return int(self.headers.get("content-length", 0))


class Connection:
    """One connection to the server."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def send(self, method: str, target: str, headers: Iterable[tuple[str, str]], body: bytes = b"") -> None:
        """A request. It gets a Content-Length where ``headers`` do not say how long the body is."""
        named = dict(headers)
        if body and not {"content-length", "transfer-encoding"} & set(named):
            named["content-length"] = str(len(body))
        lines = [f"{method} {target} HTTP/1.1", "host: soak", *(f"{name}: {value}" for name, value in named.items())]
        await self.send_raw("\r\n".join([*lines, "", ""]).encode("latin-1") + body)

    async def send_raw(self, data: bytes) -> None:
        """Any bytes. A server that has answered and closed already takes none: what it said can still be read."""
        with suppress(ConnectionError):
            self._writer.write(data)
            await self._writer.drain()

    async def head(self) -> Head:
        """The beginning of a reply. Raises CutError."""
        try:
            text = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            raise CutError(f"no reply came: {error}") from error
        first, *lines = text.rstrip().split("\r\n")
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        return Head(int(first.split()[1]), headers)

    async def body(self, head: Head, chunk: int = CHUNK) -> AsyncIterator[bytes]:
        """The body in pieces of at most ``chunk`` bytes. Raises CutError."""
        left = head.length
        while left:
            try:
                data = await self._reader.read(min(left, chunk))
            except ConnectionError as error:
                raise CutError(f"{left} bytes are missing: {error}") from error
            if not data:
                raise CutError(f"{left} bytes are missing")
            left -= len(data)
            yield data

    async def whole_body(self, head: Head) -> bytes:
        """All of it at once. Raises CutError."""
        return b"".join([data async for data in self.body(head)])

    def abort(self) -> None:
        """Vanish, whatever was still to be sent or read."""
        self._writer.transport.abort()

    async def close(self) -> None:
        """Go, and wait until the connection is gone."""
        self._writer.close()
        with suppress(ConnectionError):
            await self._writer.wait_closed()


@asynccontextmanager
async def connect(address: tuple[str, int], receive_buffer: int | None = None) -> AsyncIterator[Connection]:
    """A connection; with a small ``receive_buffer`` (bytes) a reader that stops is noticed soon."""
    sock = socket.socket()
    sock.setblocking(False)
    if receive_buffer:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            await asyncio.get_running_loop().sock_connect(sock, address)
    except BaseException:
        sock.close()
        raise
    connection = Connection(*await asyncio.open_connection(sock=sock, limit=receive_buffer or CHUNK))
    try:
        yield connection
    finally:
        await connection.close()
