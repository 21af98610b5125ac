"""One Ray node with one replica behind HAProxy, as ``serve run deploy/ray/serve.yaml`` starts it."""

from __future__ import annotations

import hashlib
import socket
import time
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest
from grpc_health.v1.health_pb2_grpc import HealthStub
from support.metrics import scrape, value
from support.ray_serve import RayServer, listening_ports, one_node
from support.rpc import channel_to, failure_of, request_message, stub_of
from support.server import wait_until
from support.streams import BareClient, bulk, local_hash
from support.vectors import KNOWN_FILES, KNOWN_IDS, KnownFile
from weightloom_client import Client, RequestRejected
from weightloom_proto.v1 import fabrication_pb2 as pb

MIB = 1 << 20
SIDE = 11586  # 512 MiB in F32
ENDLESS = bulk(1 << 18)  # 256 GiB


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayServer]:
    with one_node(tmp_path_factory.mktemp("ray") / "data", insecure_no_auth=True) as running:
        yield running


@pytest.fixture
def stub(server: RayServer) -> Iterator[Any]:
    with stub_of(server.grpc_target) as stub:
        yield stub


@pytest.mark.parametrize("scheme", ["http", "grpc"])
@pytest.mark.parametrize("known", KNOWN_FILES, ids=KNOWN_IDS)
def test_the_known_answers_come_out_right(server: RayServer, known: KnownFile, scheme: str) -> None:
    url = server.url if scheme == "http" else f"grpc://{server.grpc_target}"
    with Client(url) as client:
        for dtype, itemsize in (("F32", 4), ("F16", 2), ("BF16", 2)):
            made = client.fabricate(known.spec, {known.tensor: known.w}, dtype=dtype)[known.tensor].tobytes()
            assert hashlib.sha256(known.elements(made, itemsize)).hexdigest() == known.entry["sha256"][dtype]


def test_a_model_that_came_by_one_front_is_served_by_the_other(server: RayServer) -> None:
    spec = {"name": "shared", "seed": 3, "tensors": [{"name": "t", "shape": [40, 50], "l": 2}]}
    with Client(f"grpc://{server.grpc_target}") as grpc_client, Client(server.url) as client:
        grpc_client.create_model(spec)
        rest, rpc = (each.fabricate("shared", {"t": [1.0, 2.0]})["t"] for each in (client, grpc_client))
    assert (rest == rpc).all()


def test_errors_of_grpc_have_their_rich_details(server: RayServer, stub: Any) -> None:
    missing = failure_of(lambda: stub.GetModel(pb.GetModelRequest(name="none")))
    assert missing.status is grpc.StatusCode.NOT_FOUND
    assert missing.reason == "model_not_found"
    wrong = failure_of(lambda: list(stub.Fabricate(request_message(bulk(4) | {"w": {"t": [1.0]}}))))
    assert wrong.status is grpc.StatusCode.INVALID_ARGUMENT
    assert wrong.reason == "w_wrong_length"
    assert wrong.fields
    with Client(f"grpc://{server.grpc_target}") as client, pytest.raises(RequestRejected, match="none") as caught:
        client.fabricate("none", {"t": [1.0]})
    assert caught.value.code == "model_not_found"


def test_what_ray_does_not_serve_is_unimplemented(server: RayServer) -> None:
    with channel_to(server.grpc_target) as channel, pytest.raises(grpc.RpcError) as caught:
        HealthStub(channel).Check(HealthCheckRequest(), timeout=30)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED  # type: ignore[attr-defined]


def grows_by(server: RayServer, idle: int) -> int:
    """The most memory beyond ``idle`` in seconds in which a server without flow control makes all of 512 MiB."""
    highest = 0
    for _ in range(30):
        time.sleep(0.1)
        highest = max(highest, server.memory())
    return highest - idle


def test_a_stalled_reader_of_rest_holds_a_window_and_gets_the_right_bytes(server: RayServer) -> None:
    with BareClient(server.url, bulk(2048)) as warm:
        warm.sha256()
    idle, request, digest = server.memory(), bulk(SIDE, seed=7), hashlib.sha256()
    with BareClient(server.url, request, receive_buffer=65536) as client:
        parts = client.read()
        digest.update(next(parts))
        assert grows_by(server, idle) < 64 * MIB
        for data in parts:
            digest.update(data)
    assert digest.hexdigest() == local_hash(request)


def test_a_stalled_reader_of_grpc_holds_a_window_and_gets_the_right_bytes(server: RayServer, stub: Any) -> None:
    for _ in stub.Fabricate(request_message(bulk(2048))):
        pass
    idle, request, digest = server.memory(), bulk(SIDE, seed=8), hashlib.sha256()
    chunks = stub.Fabricate(request_message(request))
    digest.update(next(chunks).data)
    assert grows_by(server, idle) < 64 * MIB
    for chunk in chunks:
        digest.update(chunk.data)
    assert digest.hexdigest() == local_hash(request)


def test_readers_that_go_away_end_their_streams(server: RayServer, stub: Any) -> None:
    with BareClient(server.url, ENDLESS) as vanishing:
        next(vanishing.read())
    cancelled = stub.Fabricate(request_message(ENDLESS))
    next(cancelled)
    cancelled.cancel()
    with stub_of(server.grpc_target) as vanishing_too:
        next(vanishing_too.Fabricate(request_message(ENDLESS)))
    wait_until(lambda: running_streams(server) == 0)


def running_streams(server: RayServer) -> float:
    return value(scrape(server), "streams_running")


def test_what_comes_by_rays_own_proxy_is_told_to_come_again(server: RayServer) -> None:
    """It would take in the whole file however slow the reader."""
    http, rpc = 8500, 9500  # Ray's fallback for HAProxy
    with stub_of(f"127.0.0.1:{rpc}") as stub:
        refused = failure_of(lambda: next(stub.Fabricate(request_message(ENDLESS), timeout=60)))
    assert refused.status is grpc.StatusCode.UNAVAILABLE
    assert "ask again in a moment" in refused.message
    reply = server.http.request("GET", f"http://127.0.0.1:{http}/v1/models")
    assert (reply.status, reply.json()["code"]) == (503, "not_straight")


def test_a_replica_speaks_http_as_our_own_server_does(server: RayServer) -> None:
    """Straight at its port: HAProxy would refuse such a head itself."""
    with socket.create_connection(("127.0.0.1", min(listening_ports(30000, 31000)))) as replica:
        replica.sendall(b"GET / HTTP/1.1\r\nx: " + b"x" * (1 << 17))
        replica.settimeout(30)
        head = replica.recv(1 << 16)
    assert head.startswith(b"HTTP/1.1 431 ")
    assert b"max_header_bytes" in head
