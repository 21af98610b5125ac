"""A connection that misbehaves: it cuts, resets, stalls, delays or lies, as it is told."""

from __future__ import annotations

import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from urllib.parse import urlparse

Fault = Callable[["FaultyProxy", socket.socket, bytes, int], bytes]


class FaultyProxy(threading.Thread):
    """Passes HTTP connections on to a server. ``fault`` sees each block of the first ``faults`` connections' replies,
    with how many bytes of the reply came before it, and gives what is passed on instead (b"": the end of it).
    """

    def __init__(self, url: str, fault: Fault, faults: int) -> None:
        super().__init__(daemon=True)
        host, port = urlparse(url).netloc.split(":")
        self.target, self.fault, self.faults, self.connections = (host, int(port)), fault, faults, 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.over = threading.Event()
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"

    def run(self) -> None:
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._serve, args=(client, self.connections), daemon=True).start()

    def _serve(self, client: socket.socket, number: int) -> None:
        with suppress(OSError), client, socket.create_connection(self.target) as server:
            while request := whole_request(client):
                server.sendall(request)
                if not self._pass_reply(client, server, number <= self.faults):
                    return

    def _pass_reply(self, client: socket.socket, server: socket.socket, is_faulty: bool) -> bool:
        """False where the connection is to end."""
        passed, size = 0, None
        while size is None or passed < size:
            if not (data := server.recv(65536)):
                return False
            if size is None:
                size = reply_size(data)
            shown = self.fault(self, client, data, passed) if is_faulty else data
            client.sendall(shown)
            passed += len(data)
            if len(shown) < len(data):
                return False
        return True


@contextmanager
def proxy_to(url: str, fault: Fault, faults: int = 1) -> Iterator[FaultyProxy]:
    """A proxy for as long as the context is open."""
    proxy = FaultyProxy(url, fault, faults)
    proxy.start()
    try:
        yield proxy
    finally:
        proxy.over.set()
        proxy.listener.close()


def cut(after: int) -> Fault:
    """End the connection properly after so many bytes of the reply."""
    return lambda proxy, client, data, passed: data[: max(0, after - passed)]


def reset(after: int) -> Fault:
    """Reset it there, which throws away what the client has not read yet."""

    def fault(proxy: FaultyProxy, client: socket.socket, data: bytes, passed: int) -> bytes:
        if passed + len(data) < after:
            return data
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return b""

    return fault


def stall(after: int) -> Fault:
    """Pass nothing more on from there, and keep the connection."""

    def fault(proxy: FaultyProxy, client: socket.socket, data: bytes, passed: int) -> bytes:
        if passed + len(data) >= after:
            proxy.over.wait(60)
        return data

    return fault


def delay(seconds: float) -> Fault:
    """Pass each block on late."""

    def fault(proxy: FaultyProxy, client: socket.socket, data: bytes, passed: int) -> bytes:
        time.sleep(seconds)
        return data

    return fault


def flip(at: int) -> Fault:
    """Change one bit of the byte ``at`` of the reply."""

    def fault(proxy: FaultyProxy, client: socket.socket, data: bytes, passed: int) -> bytes:
        if not passed <= at < passed + len(data):
            return data
        place = at - passed
        return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]

    return fault


def reply_size(data: bytes) -> int:
    """Bytes of the whole reply, head and body, that begins with ``data``."""
    head, _, _ = data.partition(b"\r\n\r\n")
    found = re.search(rb"(?i)content-length: (\d+)", head)
    return len(head) + 4 + (int(found[1]) if found else 0)


def whole_request(client: socket.socket) -> bytes:
    """b"" where the client has gone."""
    data = b""
    while b"\r\n\r\n" not in data:
        if not (more := client.recv(65536)):
            return b""
        data += more
    head, _, body = data.partition(b"\r\n\r\n")
    found = re.search(rb"(?i)content-length: (\d+)", head)
    left = int(found[1]) - len(body) if found else 0
    while left > 0:
        if not (more := client.recv(65536)):
            return b""
        data += more
        left -= len(more)
    return data
