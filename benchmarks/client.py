"""A client faster than any server here: raw sockets, one warm buffer, a process of its own.

``with client_process() as call: call(download, request)`` runs a function in that process. load.py has clients of many
connections.
"""

from __future__ import annotations

import multiprocessing
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

__all__ = [
    "MEMORY",
    "Download",
    "Request",
    "answer_size",
    "client_process",
    "connect",
    "download",
    "fetch",
    "first_data",
    "read_slowly",
    "receive",
]

END_OF_HEAD = b"\r\n\r\n"
MEMORY = bytearray(4 << 20)
BUFFER = memoryview(MEMORY)


@dataclass(frozen=True)
class Request:
    """What to send, and to which port; the host is this machine, or a container on it."""

    port: int
    path: str
    body: bytes = b""
    content_type: str = "application/json"
    host: str = "127.0.0.1"

    @property
    def bytes(self) -> bytes:
        """The request as it goes over the wire: a POST where there is a body."""
        head = f"{'POST' if self.body else 'GET'} {self.path} HTTP/1.1\r\nHost: localhost\r\n"
        if self.body:
            head += f"Content-Type: {self.content_type}\r\nContent-Length: {len(self.body)}\r\n"
        return head.encode() + b"\r\n" + self.body


class Download(NamedTuple):
    """One body received: its bytes, and the client's time and CPU time for it."""

    size: int
    seconds: float
    cpu_seconds: float


@contextmanager
def client_process() -> Iterator[Callable[..., Any]]:
    """A process that calls functions of this file or its neighbours, one after the other."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as executor:
        yield lambda function, *arguments: executor.submit(function, *arguments).result()


def download(request: Request) -> Download:
    """Receive a whole body and throw it away, as fast as the socket gives it."""
    began, began_cpu = time.perf_counter(), time.process_time()
    with connect(request) as sock:
        sock.sendall(request.bytes)
        size, body = _read_head(sock)
        received = len(body)
        while received < size:
            received += receive(sock)
    return Download(size, time.perf_counter() - began, time.process_time() - began_cpu)


def fetch(request: Request) -> bytes:
    """A whole body, kept."""
    with connect(request) as sock:
        sock.sendall(request.bytes)
        size, body = _read_head(sock)
        parts, received = [body], len(body)
        while received < size:
            parts.append(bytes(BUFFER[: receive(sock)]))
            received += len(parts[-1])
    return b"".join(parts)


def first_data(request: Request) -> float:
    """Seconds from connecting to the first byte of tensor data, which comes after the safetensors header."""
    began = time.perf_counter()
    with connect(request) as sock:
        sock.sendall(request.bytes)
        _, body = _read_head(sock)
        while len(body) < 8 or len(body) <= 8 + int.from_bytes(body[:8], "little"):
            body += bytes(BUFFER[: receive(sock)])
        return time.perf_counter() - began


def read_slowly(request: Request, seconds: float, step: int = 1 << 20, pause: float = 0.1) -> int:
    """Read ``step`` bytes, sleep, and so on for ``seconds``; then hang up. Returns the bytes read."""
    end, received = time.perf_counter() + seconds, 0
    with connect(request) as sock:
        sock.sendall(request.bytes)
        while time.perf_counter() < end:
            received += sock.recv_into(BUFFER, step, socket.MSG_WAITALL)
            time.sleep(pause)
    return received


def connect(request: Request) -> socket.socket:
    """A connection to where a request is to go."""
    sock = socket.create_connection((request.host, request.port))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def receive(sock: socket.socket) -> int:
    """Receive what is there into ``MEMORY``: how many bytes."""
    count = sock.recv_into(BUFFER)
    if not count:
        raise ConnectionError("the server hung up")
    return count


def _read_head(sock: socket.socket) -> tuple[int, bytes]:
    """Content length, and the first bytes of the body. Raises where the status is not 200."""
    head = b""
    while END_OF_HEAD not in head:
        head += sock.recv(1 << 16)
    size, start = answer_size(head, len(head)), head.index(END_OF_HEAD) + len(END_OF_HEAD)
    return size - start, head[start:]


def answer_size(answer: bytes | bytearray, count: int) -> int:
    """Bytes of a whole answer, head and body, from its first ``count`` bytes."""
    end = answer.find(END_OF_HEAD, 0, count)
    head = bytes(answer[:end]).lower()
    if end < 0 or not head.startswith(b"http/1.1 200"):
        raise ConnectionError(bytes(answer[:count][:500]))
    return end + len(END_OF_HEAD) + int(head.split(b"content-length:", 1)[1].split(b"\r\n", 1)[0])
