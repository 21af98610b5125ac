"""gRPC streams against a real server: flow control, clients that vanish or have no time, servers that die or stop."""

from __future__ import annotations

import hashlib
import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import grpc
import pytest
import urllib3
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from support.rpc import channel_to, data_of, failure_of, read_failure, request_message, stub_of
from support.server import Server, running_server, wait_until
from support.streams import bulk, local_hash
from weightloom.rpc.service import SERVICE
from weightloom_proto.v1 import fabrication_pb2 as pb

MIB = 1 << 20
ENDLESS = request_message(bulk(1 << 18))  # 256 GiB


@pytest.fixture
def stub(server: Server) -> Iterator[Any]:
    with stub_of(server.grpc_target) as stub:
        yield stub


def is_idle(server: Server) -> bool:
    before = server.cpu_seconds()
    time.sleep(0.25)
    return server.cpu_seconds() - before < 0.03


def becomes_idle(server: Server) -> bool:
    return any(is_idle(server) for _ in range(40))


def test_memory_does_not_grow_with_the_stream(server: Server, stub: Any) -> None:
    for _ in stub.Fabricate(request_message(bulk(2048))):
        pass
    idle, highest, total = server.memory(), 0, 0
    for number, chunk in enumerate(stub.Fabricate(request_message(bulk(16384)))):
        total += len(chunk.data)
        if number % 50 == 0:
            highest = max(highest, server.memory())
    assert total > 16384 * 16384 * 4
    assert highest - idle < 64 * MIB


def test_a_slow_reader_gets_the_right_bytes_and_holds_up_nobody(server: Server, stub: Any) -> None:
    request, digest = bulk(8192, seed=77), hashlib.sha256()
    for number, chunk in enumerate(stub.Fabricate(request_message(request))):
        digest.update(chunk.data)
        if number == 5:
            assert becomes_idle(server), "its window is full, so no tile is made"
            assert data_of(stub.Fabricate(request_message(bulk(64)))) == server.post_json("/fabricate", bulk(64)).data
    assert digest.hexdigest() == local_hash(request)


def test_clients_that_cancel_or_vanish_stop_their_tiles(server: Server, stub: Any) -> None:
    for _ in range(3):
        cancelled = stub.Fabricate(ENDLESS)
        next(cancelled)
        cancelled.cancel()
    with stub_of(server.grpc_target) as vanishing:
        next(vanishing.Fabricate(ENDLESS))
    assert becomes_idle(server)
    assert server.request("GET", "/readyz").status == 200
    assert "Traceback" not in server.log.read_text()


def test_a_deadline_in_mid_stream_ends_it_and_stops_its_tiles(server: Server, stub: Any) -> None:
    stream = stub.Fabricate(ENDLESS, timeout=1)
    with pytest.raises(grpc.RpcError) as caught:
        for _ in stream:
            pass
    assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    assert becomes_idle(server)


def test_a_full_gate_says_when_to_come_again(tmp_path: Path) -> None:
    with running_server(tmp_path / "data", max_streams=1, max_queued=0) as server, stub_of(server.grpc_target) as stub:
        first = stub.Fabricate(ENDLESS)
        next(first)
        full = failure_of(lambda: list(stub.Fabricate(ENDLESS)))
        assert (full.status, full.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "too_many_requests")
        assert full.retry_after >= 1
        assert int(full.trailers["grpc-retry-pushback-ms"]) == full.retry_after * 1000
        assert data_of(stub.Fabricate(request_message(bulk(64)))), "small requests need no place"
        first.cancel()
        wait_until(lambda: stub_failure(stub) is None)


def test_requests_count_as_bytes_in_flight(tmp_path: Path) -> None:
    with running_server(tmp_path / "data", max_bytes_in_flight=20 * MIB) as server, stub_of(server.grpc_target) as stub:
        stream = stub.Fabricate(ENDLESS)
        next(stream)
        full = failure_of(lambda: list(stub.Fabricate(pb.FabricateRequest(model="m", w_safetensors=bytes(20 * MIB)))))
        assert (full.status, full.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "too_many_bytes")


def test_a_reader_that_stalls_loses_its_place_and_is_told_when_it_reads_on(tmp_path: Path) -> None:
    limits = {"max_streams": 1, "max_queued": 0, "stall_seconds": 1}
    with running_server(tmp_path / "data", **limits) as server, stub_of(server.grpc_target) as stub:
        stalled = stub.Fabricate(ENDLESS)
        next(stalled)
        wait_until(lambda: stub_failure(stub) is None)
        late = failure_of(lambda: list(stalled))
        assert (late.status, late.reason) == (grpc.StatusCode.DEADLINE_EXCEEDED, "reader_stalled")


def stub_failure(stub: Any) -> str | None:
    """How a large stream fails, or None where it begins."""
    stream = stub.Fabricate(ENDLESS)
    try:
        next(stream)
    except grpc.RpcError as error:
        return read_failure(error).reason
    stream.cancel()
    return None


def test_streams_side_by_side_on_one_connection_do_not_mix_their_bytes(stub: Any) -> None:
    requests = [bulk(1500 + 37 * seed, seed=seed) for seed in range(6)]

    def fetch(request: dict[str, Any]) -> str:
        return hashlib.sha256(data_of(stub.Fabricate(request_message(request)))).hexdigest()

    with ThreadPoolExecutor(6) as pool:
        made = list(pool.map(fetch, requests))
    assert made == [local_hash(request) for request in requests]


def test_a_stream_that_kill_9_cut_goes_on_at_its_byte_on_another_server(tmp_path: Path) -> None:
    request = bulk(3000, seed=9)
    with running_server(tmp_path / "first") as server, stub_of(server.grpc_target) as stub:
        stream = stub.Fabricate(request_message(request))
        chunks = list(islice(stream, 7))
        server.kill()
        with pytest.raises(grpc.RpcError):
            chunks += list(stream)
    begun = data_of(iter(chunks))
    assert 0 < len(begun) < chunks[0].total_size
    with running_server(tmp_path / "second") as another, stub_of(another.grpc_target) as stub:
        rest = data_of(stub.Fabricate(request_message(request, offset=len(begun), if_match=chunks[0].etag)))
    assert hashlib.sha256(begun + rest).hexdigest() == local_hash(request)


def test_sigterm_lets_a_running_stream_end_and_exits_with_zero(tmp_path: Path) -> None:
    request, digest = bulk(8192, seed=3), hashlib.sha256()
    with running_server(tmp_path / "data") as server, stub_of(server.grpc_target) as stub:
        for number, chunk in enumerate(stub.Fabricate(request_message(request))):
            digest.update(chunk.data)
            if number == 3:
                server.process.send_signal(signal.SIGTERM)
        assert digest.hexdigest() == local_hash(request)
        assert server.exit_code() == 0


def test_a_stream_that_never_ends_is_cut_after_the_grace(tmp_path: Path) -> None:
    with running_server(tmp_path / "data", shutdown_seconds=1) as server, stub_of(server.grpc_target) as stub:
        stream = stub.Fabricate(ENDLESS)
        next(stream)
        assert server.stop() == 0
        with pytest.raises(grpc.RpcError):
            list(stream)


def test_two_workers_share_the_port_and_give_the_same_bytes(tmp_path: Path) -> None:
    request, made = bulk(64), {}
    with running_server(tmp_path / "data", workers=2) as server:

        def both() -> bool:
            with stub_of(server.grpc_target) as stub:
                stream = stub.Fabricate(request_message(request))
                worker = dict(stream.initial_metadata())["x-request-id"].partition("-")[0]
                made[worker] = hashlib.sha256(data_of(stream)).hexdigest()
            return len(made) == 2

        wait_until(both)
    assert set(made.values()) == {local_hash(request)}


def test_while_a_server_drains_it_is_not_serving_but_still_serves(tmp_path: Path) -> None:
    settings = {"drain_seconds": 3600, "shutdown_seconds": 3600}
    with running_server(tmp_path / "data", **settings) as server, channel_to(server.grpc_target) as channel:
        watch = HealthStub(channel).Watch(HealthCheckRequest(service=SERVICE))
        assert next(watch).status == HealthCheckResponse.SERVING
        server.process.send_signal(signal.SIGTERM)
        assert next(watch).status == HealthCheckResponse.NOT_SERVING
        with stub_of(server.grpc_target) as stub:
            assert data_of(stub.Fabricate(request_message(bulk(300))))


def readiness(server: Server) -> int | None:
    """The status; None where a worker that ends has cut the connection."""
    try:
        return server.request("GET", "/readyz", connection="close").status
    except urllib3.exceptions.HTTPError:
        return None


@pytest.mark.parametrize("workers", [1, 2])
def test_a_second_signal_ends_at_once(tmp_path: Path, workers: int) -> None:
    settings = {"shutdown_seconds": 3600, "workers": workers}
    with running_server(tmp_path / "data", **settings) as server, stub_of(server.grpc_target) as stub:
        stream = stub.Fabricate(ENDLESS)
        next(stream)
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: readiness(server) == 503)
        server.process.send_signal(signal.SIGTERM)
        assert server.exit_code() == 128 + signal.SIGTERM
    assert "Event loop is closed" not in server.log.read_text(), "gRPC was stopped before its loop"


def test_a_peer_that_answers_no_ping_is_dropped(tmp_path: Path) -> None:
    empty_settings = bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
    with running_server(tmp_path / "data", grpc_ping_seconds=1) as server, socket.socket() as peer:
        host, port = server.grpc_target.split(":")
        peer.settimeout(60)
        peer.connect((host, int(port)))
        peer.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + empty_settings)
        received = bytearray()
        while data := peer.recv(4096):  # a server that never hung up would let this time out
            received += data
    assert received, "it spoke HTTP/2 first"


@pytest.mark.parametrize("service", ["", SERVICE])
def test_the_standard_health_service_says_serving(server: Server, service: str) -> None:
    with channel_to(server.grpc_target) as channel:
        health = HealthStub(channel)
        assert health.Check(HealthCheckRequest(service=service)).status == HealthCheckResponse.SERVING
        assert next(health.Watch(HealthCheckRequest(service=service))).status == HealthCheckResponse.SERVING


def test_health_follows_the_registry(tmp_path: Path) -> None:
    with running_server(tmp_path / "data") as server, channel_to(server.grpc_target) as channel:
        watch = HealthStub(channel).Watch(HealthCheckRequest(service=SERVICE))
        assert next(watch).status == HealthCheckResponse.SERVING
        for file in (tmp_path / "data").iterdir():
            with file.open("r+b") as opened:  # not truncated: SQLite maps one of them, and would die by SIGBUS
                opened.write(b"rubbish" * 2000)
        assert next(watch).status == HealthCheckResponse.NOT_SERVING
        wait_until(lambda: "gRPC health: not serving: " in server.log.read_text())  # lines are written by a thread


def test_reflection_tells_the_contract(server: Server) -> None:
    with channel_to(server.grpc_target) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        assert {SERVICE, "grpc.health.v1.Health"} <= set(database.get_services())
        file = database.FindFileContainingSymbol(SERVICE)
        assert file.service[0].method[0].name == "Fabricate"


def test_one_connection_has_so_many_calls_at_a_time_and_others_go_on(tmp_path: Path) -> None:
    with running_server(tmp_path / "data", grpc_streams=2) as server, stub_of(server.grpc_target) as one:
        endless = [one.Fabricate(ENDLESS) for _ in range(2)]
        for stream in endless:
            next(stream)
        waiting = one.ListModels.future(pb.ListModelsRequest())
        with stub_of(server.grpc_target) as other:
            other.ListModels(pb.ListModelsRequest(), timeout=60)
        assert not waiting.done()
        endless[0].cancel()
        waiting.result(timeout=60)
        endless[1].cancel()
