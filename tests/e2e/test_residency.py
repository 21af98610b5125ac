"""What is kept of a model is shown, warmed, unloaded and remembered, over both fronts; and memory goes back."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest
from support.metrics import scrape, value
from support.server import Server, running_server, wait_until
from support.streams import BareClient, bulk, post
from weightloom_proto.v1 import fabrication_pb2 as pb
from weightloom_proto.v1.fabrication_pb2_grpc import FabricationServiceStub

MIB = 1 << 20
MODEL = {"name": "warm/one", "seed": 5, "tensors": [{"name": "t", "shape": [2048, 2048], "l": 4, "r": 4}]}
T_BYTES = 2048 * 2048 * 4 * 4
FABRICATE = {"model": "warm/one", "w": {"t": [1.0, -0.5, 0.25, 2.0]}}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with running_server(tmp_path / "data", residency="virtual") as running:
        assert running.post_json("/v1/models", MODEL).status == 201
        yield running


def shown(server: Server) -> tuple[str, int]:
    reply = server.request("GET", "/v1/models/warm/one").json()
    assert reply["t_bytes"] == T_BYTES
    return reply["residency"], reply["resident_bytes"]


def kept(server: Server) -> float:
    return value(scrape(server), "factor_store_bytes", store="T")


def put(server: Server, body: Any) -> Any:
    return server.request(
        "PUT", "/v1/models/warm/one/residency", json.dumps(body).encode(), content_type="application/json"
    )


def test_a_model_is_warmed_and_unloaded_and_its_memory_goes_back(server: Server) -> None:
    assert shown(server) == ("virtual", 0)
    virtual = server.post_json("/fabricate", FABRICATE).data
    assert shown(server) == ("virtual", 0)
    before = server.memory()
    assert put(server, {"residency": "resident"}).status == 200
    wait_until(lambda: shown(server) == ("resident", T_BYTES))
    assert server.memory() - before > 60 * MIB
    assert kept(server) >= T_BYTES
    assert server.post_json("/fabricate", FABRICATE).data == virtual
    assert put(server, {"residency": "virtual"}).status == 200
    wait_until(lambda: shown(server) == ("virtual", 0) and server.memory() - before < 16 * MIB)
    assert server.post_json("/fabricate", FABRICATE).data == virtual
    assert put(server, {"residency": None}).json()["residency"] == "virtual", "the server's setting"


def test_a_deleted_model_leaves_no_memory_behind(server: Server) -> None:
    put(server, {"residency": "resident"})
    wait_until(lambda: shown(server) == ("resident", T_BYTES))
    assert server.request("DELETE", "/v1/models/warm/one").status == 204
    wait_until(lambda: kept(server) == 0)


@pytest.mark.parametrize("way", ["unloaded", "deleted"])
def test_a_stream_that_was_waiting_when_its_model_went_brings_no_memory_back(tmp_path: Path, way: str) -> None:
    patient = {"stall_seconds": 3600, "max_queue_seconds": 3600}
    with running_server(tmp_path / "data", residency="virtual", max_streams=1, **patient) as server:
        server.post_json("/v1/models", MODEL)
        put(server, {"residency": "resident"})
        wait_until(lambda: kept(server) == T_BYTES)
        with ExitStack() as stack:
            with BareClient(server.url, bulk(1 << 18), receive_buffer=65536):
                waiting = stack.enter_context(post(server.url, FABRICATE, connection="close"))
                wait_until(lambda: value(scrape(server), "requests_waiting") == 1)
                if way == "unloaded":
                    put(server, {"residency": "virtual"})
                else:
                    server.request("DELETE", "/v1/models/warm/one")
                wait_until(lambda: kept(server) == 0)
            received = sum(map(len, iter(lambda: waiting.recv(MIB), b"")))
            assert received > 2048 * 2048 * 4
        wait_until(lambda: kept(server) == 0)


def test_it_is_remembered_over_a_restart(server: Server) -> None:
    put(server, {"residency": "resident"})
    server.stop()
    with running_server(server.data_dir, residency="virtual") as again:
        wait_until(lambda: shown(again) == ("resident", T_BYTES))


def test_all_workers_follow(tmp_path: Path) -> None:
    with running_server(tmp_path / "data", residency="virtual", workers=2) as pair:
        pair.post_json("/v1/models", MODEL)
        assert put(pair, {"residency": "resident"}).status == 200
        wait_until(lambda: value(scrape(pair), "factor_store_bytes", store="T") == 2 * T_BYTES)
        assert put(pair, {"residency": "virtual"}).status == 200
        wait_until(lambda: value(scrape(pair), "factor_store_bytes", store="T") == 0)


def test_auto_keeps_what_is_asked_for_again(server: Server) -> None:
    put(server, {"residency": "auto"})
    bodies = [server.post_json("/fabricate", FABRICATE).data for _ in range(3)]
    assert bodies[0] == bodies[1] == bodies[2]
    assert shown(server) == ("auto", T_BYTES)


def test_the_same_over_grpc(server: Server) -> None:
    with grpc.insecure_channel(server.grpc_target) as channel:
        stub: Any = FabricationServiceStub(channel)
        request = pb.SetResidencyRequest(name="warm/one", residency=pb.RESIDENCY_RESIDENT)
        assert stub.SetResidency(request).residency == pb.RESIDENCY_RESIDENT
        wait_until(lambda: stub.GetModel(pb.GetModelRequest(name="warm/one")).resident_bytes == T_BYTES)
        unset = stub.SetResidency(pb.SetResidencyRequest(name="warm/one"))
        assert (unset.residency, unset.t_bytes) == (pb.RESIDENCY_VIRTUAL, str(T_BYTES))
        with pytest.raises(grpc.RpcError) as refused:
            stub.SetResidency(pb.SetResidencyRequest(name="warm/one", residency=9))
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        with pytest.raises(grpc.RpcError) as unknown:
            stub.SetResidency(pb.SetResidencyRequest(name="nope"))
        assert unknown.value.code() is grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize("body", [{"residency": "warm"}, {}, {"residency": "auto", "now": True}, []])
def test_a_wrong_residency_is_told(server: Server, body: Any) -> None:
    reply = put(server, body)
    assert (reply.status, reply.json()["code"]) == (422, "invalid_request")
    assert reply.json()["errors"]


def test_warming_can_be_called_off(tmp_path: Path) -> None:
    large = MODEL | {"tensors": [{"name": "t", "shape": [4096, 4096], "l": 4, "r": 16}]}  # T takes 1 GiB
    with running_server(tmp_path / "data", residency="virtual", factor_bytes=2 << 30, threads=1) as server:
        server.post_json("/v1/models", large)
        before = server.memory()
        put(server, {"residency": "resident"})
        wait_until(lambda: server.request("GET", "/v1/models/warm/one").json()["resident_bytes"] > 0)
        put(server, {"residency": "virtual"})
        wait_until(lambda: server.request("GET", "/v1/models/warm/one").json()["resident_bytes"] == 0)
        wait_until(lambda: server.memory() - before < 64 * MIB)


def test_a_model_that_does_not_fit_with_the_others_is_told_and_they_are_warmed(tmp_path: Path) -> None:
    with running_server(tmp_path / "data", residency="virtual", factor_bytes=T_BYTES + 100) as server:
        small = {"tensors": [{"name": "s", "shape": [2], "l": 4, "r": 1}]}  # T takes 16 bytes
        for seed, name in enumerate(("warm/one", "warm/two", "warm/x")):
            model = MODEL | {"name": name, "seed": seed} | (small if name == "warm/x" else {})
            assert server.post_json("/v1/models", model).status == 201
            path = f"/v1/models/{name}/residency"
            server.request("PUT", path, b'{"residency": "resident"}', content_type="application/json")
        wait_until(lambda: "warm/two is to be resident, but does not fit into factor_bytes" in server.log.read_text())
        wait_until(lambda: shown(server) == ("resident", T_BYTES))
        wait_until(lambda: server.request("GET", "/v1/models/warm/x").json()["resident_bytes"] == 16)
        server.post_json("/v1/models", MODEL | {"name": "another", "seed": 9})  # the registry changes: another look
        wait_until(lambda: server.request("GET", "/v1/models/another").status == 200)
        time.sleep(1.5)
        assert server.log.read_text().count("does not fit") == 1
