"""Servers that have addresses of their own, and a balancer in front of them."""

from __future__ import annotations

import re
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from urllib.parse import ParseResult, urlparse

from support.ports import reserved_port
from support.proxy import reply_size, whole_request
from support.server import Server, running_server


@contextmanager
def direct_server(data_dir: Path, scheme: str = "http", **settings: object) -> Iterator[Server]:
    """A server that redirects to its own address what has 1 MB and more."""
    with reserved_port() as port:
        settings = {"direct_url": f"{scheme}://127.0.0.1:{port}", "direct_bytes": 1_000_000} | settings
        with running_server(data_dir, port=port, **settings) as server:
            yield server


class Balancer(threading.Thread):
    """Gives each request to the next of ``urls`` that takes it; or, ``by_stream``, all of a stream to the same one.

    tls: of its own address. bytes: of all replies, as they were passed on.
    """

    def __init__(self, urls: tuple[str, ...], tls: ssl.SSLContext | None, by_stream: bool) -> None:
        super().__init__(daemon=True)
        self.tls, self.by_stream = tls, by_stream
        self.targets = [urlparse(url) for url in urls]
        self.turns, self.bytes = count(), 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.listener.getsockname()[1]}"

    def run(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with suppress(OSError), self.tls.wrap_socket(client, server_side=True) if self.tls else client as plain:
            while request := whole_request(plain):
                with self._server_for(request) as server:
                    server.sendall(request)
                    if not self._pass_reply(server, plain):
                        return

    def _server_for(self, request: bytes) -> socket.socket:
        turn = next(self.turns)
        if self.by_stream:
            found = re.search(rb"(?i)\r\nx-weightloom-stream: (\d+)\r\n", request)
            turn = int(found[1]) if found else 0
        for step in range(len(self.targets)):
            with suppress(ConnectionRefusedError):
                return _connect(self.targets[(turn + step) % len(self.targets)])
        raise ConnectionRefusedError

    def _pass_reply(self, server: socket.socket, client: socket.socket) -> bool:
        """False where it was not whole."""
        passed, size = 0, 1
        while passed < size:
            if not (data := server.recv(1 << 18)):
                return False
            if not passed:
                size = reply_size(data)
            client.sendall(data)
            passed += len(data)
            self.bytes += len(data)
        return True


def _connect(url: ParseResult) -> socket.socket:
    sock = socket.create_connection((url.hostname, url.port))
    if url.scheme == "http":
        return sock
    trusting = ssl.create_default_context()
    trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
    return trusting.wrap_socket(sock)


@contextmanager
def balancer_of(*urls: str, tls: ssl.SSLContext | None = None, by_stream: bool = False) -> Iterator[Balancer]:
    """A balancer for as long as the context is open."""
    balancer = Balancer(urls, tls, by_stream)
    balancer.start()
    try:
        yield balancer
    finally:
        balancer.listener.close()
