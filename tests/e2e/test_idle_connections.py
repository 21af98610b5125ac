"""Connections that are kept and used again, as proxies do."""

from __future__ import annotations

import http.client
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from support.server import running_server

HEAD = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
BODY = b"x" * 100_000
REFUSED = b"POST /nowhere HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(BODY)


@contextmanager
def connection_to_server(folder: Path, **settings: float) -> Iterator[socket.socket]:
    """The only one to a server of its own."""
    with running_server(folder / "data", **settings) as server, server.connect() as connection:
        yield connection


def status_of(connection: socket.socket, request: bytes) -> int:
    """Of its reply, all of which is read: its body may come behind its head."""
    connection.sendall(request)
    reply = http.client.HTTPResponse(connection)
    reply.begin()
    reply.read()
    return reply.status


def test_an_idle_connection_ends_after_keep_alive_seconds(tmp_path: Path) -> None:
    with running_server(tmp_path / "data", keep_alive_seconds=1) as server:
        connection = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=60)
        connection.request("GET", "/healthz")
        assert connection.getresponse().read() == b'{"status":"alive"}'
        assert connection.sock.recv(1) == b""
        connection.close()


def test_a_connection_may_be_idle_for_longer_than_a_head_may_take(tmp_path: Path) -> None:
    """The time for a head begins with the head, though it comes in pieces."""
    with connection_to_server(tmp_path, keep_alive_seconds=60, header_seconds=6) as connection:
        assert status_of(connection, HEAD) == 200
        time.sleep(8)
        connection.sendall(HEAD[:9])
        time.sleep(0.5)
        assert status_of(connection, HEAD[9:]) == 200


def test_a_body_that_comes_behind_its_reply_takes_nothing_off_the_idle_time(tmp_path: Path) -> None:
    """It is known to be too long before it has come."""
    with connection_to_server(tmp_path, keep_alive_seconds=60, header_seconds=3) as connection:
        assert status_of(connection, REFUSED) == 413
        connection.sendall(BODY)
        time.sleep(5)
        assert status_of(connection, HEAD) == 200


def test_a_head_that_comes_with_the_end_of_such_a_body_has_its_own_time(tmp_path: Path) -> None:
    with connection_to_server(tmp_path, keep_alive_seconds=4, header_seconds=60) as connection:
        assert status_of(connection, REFUSED) == 413
        connection.sendall(BODY + HEAD[:9])
        time.sleep(6)
        assert status_of(connection, HEAD[9:]) == 200
