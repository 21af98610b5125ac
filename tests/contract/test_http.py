"""What is no proper HTTP/1.1, or more of it than a request needs: bytes on a socket."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from support.metrics import scrape, value
from support.server import Server, running_server, wait_until
from support.streams import bulk, post, receive_until
from weightloom.rest.transport import MAX_PIPELINED
from weightloom.settings import Settings

LIMIT = Settings.model_fields["max_header_bytes"].default
CLOSE = b"Connection: close\r\n"
FACTORS = b"/v1/factors/" + b"0" * 64
JSON = b"Content-Type: application/json\r\n"


def head(target: bytes = b"/healthz", more: bytes = b"", method: bytes = b"GET") -> bytes:
    return b"%b %b HTTP/1.1\r\nHost: x\r\n%b\r\n" % (method, target, more)


def rest_of(sock: socket.socket) -> bytes:
    """All that comes until the server closes the connection."""
    parts = []
    while part := sock.recv(1 << 16):
        parts.append(part)
    return b"".join(parts)


def answer(server: Server, data: bytes) -> tuple[int, Any]:
    """Status and document of the last reply on a connection that the server closes."""
    with server.connect() as sock:
        sock.sendall(data)
        reply = rest_of(sock)
    top, _, body = reply[reply.rindex(b"HTTP/1.1 ") :].partition(b"\r\n\r\n")
    assert b"x-request-id: " in top
    return int(top.split()[1]), json.loads(body)


@pytest.fixture(scope="module")
def impatient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that waits a second for a head."""
    with running_server(tmp_path_factory.mktemp("impatient") / "data", header_seconds=1) as running:
        yield running


TOO_LARGE = {
    "a long URL": head(b"/" + b"a" * LIMIT),
    "a long header": head(more=b"X: %b\r\n" % (b"a" * LIMIT)),
    "a header without an end": b"GET / HTTP/1.1\r\nX: " + b"a" * (LIMIT + (1 << 20)),
    "a URL without an end": b"GET /" + b"a" * (LIMIT + (1 << 20)),
    "many headers": head(more=b"X: a\r\n" * 300),
    "empty lines without an end": b"\r\n" * LIMIT,
}


@pytest.mark.parametrize("what", TOO_LARGE)
def test_a_head_has_a_size(server: Server, what: str) -> None:
    status, document = answer(server, TOO_LARGE[what])
    assert (status, document["code"]) == (431, "header_too_large")
    assert f"{LIMIT} bytes (setting max_header_bytes)" in document["detail"]


def test_trailers_have_a_size(server: Server) -> None:
    with server.connect() as sock:
        sock.sendall(head(b"/fabricate", JSON + b"Transfer-Encoding: chunked\r\n", b"POST") + b"0\r\nX: ")
        sock.sendall(b"a" * (LIMIT + (1 << 20)))
        assert rest_of(sock).startswith(b"HTTP/1.1 431 ")


def test_a_head_of_the_size_is_taken(server: Server) -> None:
    fields = b"X: a\r\n" * 200 + b"Y: %b\r\n" % (b"a" * (LIMIT - 2000)) + CLOSE
    assert answer(server, head(more=fields)) == (200, {"status": "alive"})


NO_HTTP = {
    "rubbish": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "a length that is none": head(b"/fabricate", b"Content-Length: many\r\n", b"POST"),
    "two lengths": head(b"/fabricate", b"Content-Length: 1\r\nContent-Length: 2\r\n", b"POST"),
    "a length and chunks": head(b"/fabricate", b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n", b"POST"),
    "chunks that are none": head(b"/fabricate", b"Transfer-Encoding: chunked\r\n", b"POST") + b"zz\r\n",
    "bytes in a URL": head(b"/v1/models/\xff"),
    "a control character": head(more=b"X-Request-Id: a\x01\r\n"),
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
}


@pytest.mark.parametrize("what", NO_HTTP)
def test_what_is_no_http_is_told(server: Server, what: str) -> None:
    status, document = answer(server, NO_HTTP[what])
    assert (status, document["code"]) == (400, "malformed_http")


@pytest.mark.parametrize("begun", [b"G", b"GET /healthz HTTP/1.1\r\nHost: x\r\nX: "])
def test_a_head_has_a_time(impatient: Server, begun: bytes) -> None:
    status, document = answer(impatient, begun)
    assert (status, document["code"]) == (408, "header_stalled")
    assert "setting header_seconds" in document["detail"]


@pytest.mark.parametrize("begun", [b"", b"\r\n"])
def test_a_connection_on_which_nothing_is_asked_is_closed(impatient: Server, begun: bytes) -> None:
    with impatient.connect() as sock:
        sock.sendall(begun)
        assert rest_of(sock) == b""


def test_the_next_head_has_a_time_too(impatient: Server) -> None:
    with impatient.connect() as sock:
        sock.sendall(head() + b"GET /h")
        first, _, second = rest_of(sock).partition(b'{"status":"alive"}')
        assert first.startswith(b"HTTP/1.1 200 ")
        assert second.startswith(b"HTTP/1.1 408 ")


def test_a_body_that_nobody_reads_does_not_keep_the_connection(impatient: Server) -> None:
    with impatient.connect() as sock:
        sock.sendall(head(b"/fabricate", b"Content-Length: 100000000\r\n", b"PUT"))
        assert sock.recv(1 << 16).startswith(b"HTTP/1.1 405 ")
        sock.sendall(b"x")  # uvicorn takes the connection for a busy one now
        assert b"HTTP/1.1" not in rest_of(sock)


def test_trailers_change_nothing(server: Server) -> None:
    with server.connect() as sock:
        body = b"2\r\n{}\r\n0\r\nX-Request-Id: trailer\r\nContent-Type: text/plain\r\n\r\n"
        sock.sendall(head(b"/fabricate", JSON + CLOSE + b"Transfer-Encoding: chunked\r\n", b"POST") + body)
        reply = rest_of(sock)
    assert reply.startswith(b"HTTP/1.1 422 ")
    assert b"x-request-id: trailer" not in reply


def test_a_request_for_another_protocol_is_answered_and_ends_the_connection(server: Server) -> None:
    status, document = answer(server, head(more=b"Connection: Upgrade\r\nUpgrade: h2c\r\n") + head())
    assert (status, document) == (200, {"status": "alive"})


def test_rubbish_behind_a_request_is_not_written_into_its_stream(server: Server) -> None:
    tensor = {"name": "t", "shape": [1 << 12, 1 << 12], "kind": "constant", "value": "ones"}
    body = json.dumps({"seed": 1, "tensors": [tensor]}).encode()
    with server.connect() as sock:
        sock.sendall(head(b"/fabricate", JSON + b"Content-Length: %d\r\n" % len(body), b"POST") + body)
        received = sock.recv(1 << 16)
        sock.sendall(b"rubbish\r\n\r\n")
        try:
            while part := sock.recv(1 << 20):
                received += part
        except ConnectionResetError:
            pass
    assert received.count(b"HTTP/1.1") == 1


def test_rubbish_behind_a_request_ends_it(server: Server) -> None:
    before = server.log.read_text().count("Traceback")
    for request in (head(), head(b"/v1/models"), head(b"/fabricate", JSON + b"Content-Length: 2\r\n", b"POST") + b"{}"):
        status, document = answer(server, request + b"rubbish\r\n\r\n")
        assert (status, document["code"]) == (400, "malformed_http")
    assert server.log.read_text().count("Traceback") == before


@pytest.mark.parametrize("number", [1000, 20_000], ids=["few", "more than is read at a time"])
def test_so_many_requests_wait_for_the_reply_to_an_earlier_one_and_no_more(server: Server, number: int) -> None:
    """Each is some kilobytes of memory, and brought no key yet. No reply is lost, whatever comes behind."""
    with server.connect() as sock:
        sock.sendall(head() * number)
        replies = rest_of(sock)
    assert replies.count(b"HTTP/1.1 200") == MAX_PIPELINED + 1
    assert replies.count(b"connection: close") == 1
    assert replies.endswith(b'{"status":"alive"}')


def test_requests_come_one_behind_the_other_for_as_long_as_some_are_answered(server: Server) -> None:
    burst = head() * MAX_PIPELINED
    with server.connect() as sock:
        for _ in range(5):
            sock.sendall(burst)
            receive_until(sock, b"alive", times=MAX_PIPELINED)
        sock.sendall(head(more=CLOSE))
        assert rest_of(sock).count(b"HTTP/1.1 200") == 1


def test_who_leaves_with_requests_that_wait_ends_the_one_that_is_answered(server: Server) -> None:
    """Not the last one alone, which would leave the first to write on into a connection that is closed."""
    counted = {"front": "rest", "call": "fabricate", "code": "cancelled"}
    before, tracebacks = value(scrape(server), "requests_total", **counted), server.log.read_text().count("Traceback")
    with post(server.url, bulk(1 << 18)) as sock:
        sock.sendall(head())
        assert sock.recv(1 << 16).startswith(b"HTTP/1.1 200")
    wait_until(lambda: value(scrape(server), "requests_total", **counted) == before + 1)
    assert server.log.read_text().count("Traceback") == tracebacks


def test_the_limits_are_settings(tmp_path: Path) -> None:
    with running_server(tmp_path / "data", max_header_bytes=2000) as server:
        limits = server.request("GET", "/v1/info").json()["limits"]
        assert (limits["max_header_bytes"], limits["header_seconds"]) == (2000, 30)
        assert answer(server, head(more=b"X: %b\r\n" % (b"a" * 2000)))[0] == 431


@pytest.mark.parametrize(("method", "target"), [(b"POST", b"/fabricate"), (b"POST", b"/v1/models"), (b"PUT", FACTORS)])
def test_a_body_that_trickles_is_not_waited_for(tmp_path: Path, method: bytes, target: bytes) -> None:
    with running_server(tmp_path / "data", stall_seconds=0.5) as server, server.connect() as sock:
        sock.sendall(head(target, JSON + b"Content-Length: 60000\r\n", method))
        sock.settimeout(0.1)
        reply = b""
        for _ in range(100):
            sock.sendall(b"x")
            with suppress(TimeoutError):
                reply = sock.recv(1 << 16)
                break
        sock.settimeout(30)
        reply = receive_until(sock, b"}", early=reply)
        assert reply.startswith(b"HTTP/1.1 504 ")
        assert b"sender_stalled" in reply
