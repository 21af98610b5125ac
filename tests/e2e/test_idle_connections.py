"""Connections that are kept and used again, as proxies do."""

from __future__ import annotations

import http.client
import socket
import time
from pathlib import Path
from urllib.parse import urlsplit

from support.server import running_server

HEAD = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"


def test_an_idle_connection_ends_after_keep_alive_seconds(tmp_path: Path) -> None:
    with running_server(tmp_path / "data", keep_alive_seconds=1) as server:
        connection = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=30)
        connection.request("GET", "/healthz")
        assert connection.getresponse().read() == b'{"status":"alive"}'
        assert connection.sock.recv(1) == b""
        connection.close()


def test_a_connection_may_be_idle_for_longer_than_a_head_may_take(tmp_path: Path) -> None:
    """The time for a head begins with the head, though it comes in pieces."""
    with running_server(tmp_path / "data", keep_alive_seconds=60, header_seconds=3) as server:
        host, port = urlsplit(server.url).netloc.split(":")
        with socket.create_connection((host, int(port)), 30) as connection:
            connection.sendall(HEAD)
            assert connection.recv(4096).startswith(b"HTTP/1.1 200")
            time.sleep(5)
            connection.sendall(HEAD[:9])
            time.sleep(2)
            connection.sendall(HEAD[9:])
            assert connection.recv(4096).startswith(b"HTTP/1.1 200")
