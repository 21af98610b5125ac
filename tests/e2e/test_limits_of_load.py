"""A server that is full says so at once; who stalls, or comes too late, is dropped and holds nothing."""

from __future__ import annotations

import hashlib
import json
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlparse

import pytest
from support.metrics import scrape, value
from support.server import Server, running_server, wait_until
from support.streams import BareClient, bulk, local_hash, post, receive_until

REQUESTS = "weightloom_requests_total"
ENDLESS = bulk(1 << 18)  # 256 GiB


@pytest.fixture
def narrow(tmp_path: Path) -> Iterator[Server]:
    """Two streams may run, and one may wait."""
    settings = {"max_streams": 2, "max_queued": 1, "max_queue_seconds": 3600, "stall_seconds": 3600}
    with running_server(tmp_path / "data", **settings) as server:
        yield server


def load(server: Server) -> tuple[float, float, float]:
    names = "streams_running", "requests_waiting", "bytes_in_flight"
    samples = scrape(server)
    return tuple(value(samples, name) for name in names)  # type: ignore[return-value]


def test_a_full_gate_refuses_at_once_and_passes_small_requests_and_health(narrow: Server) -> None:
    with ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(BareClient(narrow.url, ENDLESS, receive_buffer=65536))
        assert narrow.post_json("/fabricate", bulk(64)).status == 200
        for path in ("/healthz", "/readyz", "/metrics", "/v1/models"):
            assert narrow.request("GET", path).status == 200
        with post(narrow.url, bulk(2000)):
            wait_until(lambda: load(narrow)[:2] == (2, 1))
            refused = narrow.post_json("/fabricate", bulk(2000))
            assert (refused.status, refused.json()["code"]) == (429, "too_many_requests")
            assert 1 <= int(refused.headers["retry-after"]) <= 60
            assert refused.headers["x-request-id"]
        wait_until(lambda: load(narrow)[:2] == (2, 0))  # who goes away while waiting leaves the queue
    wait_until(lambda: load(narrow) == (0, 0, 0))
    assert narrow.post_json("/fabricate", bulk(2000)).status == 200


def test_who_has_waited_long_enough_is_told(tmp_path: Path) -> None:
    with (
        running_server(tmp_path / "data", max_streams=1, max_queue_seconds=0.5) as server,
        BareClient(server.url, ENDLESS, receive_buffer=65536),
    ):
        waited = server.post_json("/fabricate", bulk(2000))
        assert (waited.status, waited.json()["code"]) == (504, "deadline_exceeded")


def test_bytes_in_flight_are_bounded(tmp_path: Path) -> None:
    with (
        running_server(tmp_path / "data", max_bytes_in_flight=6 << 20) as server,
        BareClient(server.url, ENDLESS, receive_buffer=65536),
    ):
        body = b"x" * (5 << 20)
        refused = server.request("POST", "/fabricate", body, content_type="application/octet-stream")
        assert (refused.status, refused.json()["code"]) == (429, "too_many_bytes")
        assert "max_bytes_in_flight" in refused.json()["detail"]


def test_a_reader_that_stalls_is_dropped(tmp_path: Path) -> None:
    with running_server(tmp_path / "data", stall_seconds=0.5, max_streams=1) as server:
        with BareClient(server.url, ENDLESS, receive_buffer=65536) as stalled:
            wait_until(lambda: load(server) == (0, 0, 0))  # its place and its window are free again
            with pytest.raises((ConnectionError, AssertionError)):
                for _ in stalled.read():
                    pass
        assert value(scrape(server), "requests_total", front="rest", call="fabricate", code="reader_stalled") == 1
        assert "Traceback" not in server.log.read_text()


@pytest.mark.parametrize("line", ["POST /fabricate", "POST /v1/models", "PUT /v1/models/one/residency"])
def test_a_sender_that_stalls_is_dropped(tmp_path: Path, line: str) -> None:
    head = f"{line} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n"
    with running_server(tmp_path / "data", stall_seconds=0.5) as server:
        with socket.create_connection(urlparse(server.url).netloc.split(":"), timeout=60) as sender:
            sender.sendall(head.encode() + b"{")
            assert sender.recv(1 << 16).startswith(b"HTTP/1.1 504 ")
            wait_until(lambda: load(server) == (0, 0, 0))

        def codes_when_one_has_vanished() -> set[str]:
            with socket.create_connection(urlparse(server.url).netloc.split(":")) as vanishing:
                vanishing.sendall(head.encode() + b"{")
            return {dict(labels)["code"] for name, labels in scrape(server) if name == REQUESTS}

        # again and again: a server that was held up between may take the first ones for senders that stall
        wait_until(lambda: codes_when_one_has_vanished() == {"sender_stalled", "cancelled"})
        assert "Traceback" not in server.log.read_text()


def test_a_slow_reader_that_goes_on_reading_is_not_dropped(tmp_path: Path) -> None:
    request, digest, stall_seconds = bulk(4096, seed=4), hashlib.sha256(), 4.0
    with (
        running_server(tmp_path / "data", stall_seconds=stall_seconds) as server,
        BareClient(server.url, request, receive_buffer=65536) as client,
    ):
        slow_until = time.monotonic() + 1.5 * stall_seconds
        for number, data in enumerate(client.read()):
            digest.update(data)
            if number % 25 == 0 and time.monotonic() < slow_until:
                time.sleep(0.1)
    assert digest.hexdigest() == local_hash(request)


@pytest.mark.parametrize("text", ["soon", "0", "-1", "inf", "nan"])
def test_a_deadline_that_is_none_is_refused(server: Server, text: str) -> None:
    reply = server.post_json("/fabricate", bulk(8), x_request_timeout=text)
    assert (reply.status, reply.json()["errors"][0]["field"]) == (422, "X-Request-Timeout")


def test_a_deadline_cuts_a_stream_that_comes_too_late(server: Server) -> None:
    def cut() -> float:
        return value(scrape(server), "requests_total", front="rest", call="fabricate", code="deadline_exceeded")

    before = cut()
    with BareClient(server.url, ENDLESS, x_request_timeout="3") as client:
        with pytest.raises((ConnectionError, AssertionError)):
            for _ in client.read():
                pass
        wait_until(lambda: load(server)[0] == 0)
    wait_until(lambda: cut() == before + 1)
    assert server.post_json("/fabricate", bulk(8), x_request_timeout="10").status == 200


def test_bodies_that_never_come_hold_nothing_and_are_given_up(tmp_path: Path) -> None:
    """Sixteen clients announce 64 MiB each, all that may be in flight, and send none of it."""
    head = (
        "POST /fabricate HTTP/1.1\r\nHost: x\r\nContent-Type: application/octet-stream\r\nContent-Length: 67108864\r\n"
    )
    with running_server(tmp_path / "data", stall_seconds=2.0) as server, ExitStack() as stack:
        host, port = urlparse(server.url).netloc.split(":")
        idle = [stack.enter_context(socket.create_connection((host, int(port)), 60)) for _ in range(16)]
        for connection in idle:
            connection.sendall(head.encode() + b"\r\n")
        assert server.post_json("/fabricate", bulk(64)).status == 200
        for connection in idle:
            answer = receive_until(connection, b"sender_stalled")
            assert answer.startswith(b"HTTP/1.1 504")


def test_a_body_of_no_announced_length_counts_as_what_it_is(tmp_path: Path) -> None:
    body = json.dumps(ENDLESS).encode()
    head = "POST /fabricate HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    with running_server(tmp_path / "data", max_bytes_in_flight=32 << 20) as server, ExitStack() as stack:
        host, port = urlparse(server.url).netloc.split(":")
        for _ in range(4):  # each holds a window of 4 MiB; were it counted as max_json_bytes, two would fill the gate
            connection = stack.enter_context(socket.create_connection((host, int(port)), 60))
            connection.sendall(head.encode() + b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body))
            assert connection.recv(4096).startswith(b"HTTP/1.1 200")


def test_a_deadline_holds_for_reading_and_planning_too(server: Server) -> None:
    tensors = [{"name": f"t{i}", "shape": [2], "kind": "constant", "value": "ones"} for i in range(20_000)]
    late = server.post_json("/fabricate", {"seed": 1, "tensors": tensors}, x_request_timeout="0.01")
    assert (late.status, late.json()["code"]) == (504, "deadline_exceeded")
