"""gRPC calls whose message does not come: what they keep from others."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from support.inline import INLINE
from support.keys import key_for_all
from support.rpc import channel_to, data_of, failure_of, request_message, silence, stub_of
from support.server import Server, running_server
from weightloom_proto.v1 import fabrication_pb2 as pb

FABRICATE = "/weightloom.v1.FabricationService/Fabricate"
PLACES = {"max_request_bytes": 1 << 20, "max_bytes_in_flight": 4 << 20}


def bearing(key: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {key}"),)


@contextmanager
def silent_calls(server: Server, key: str, number: int) -> Iterator[list[grpc.Call]]:
    """So many of Fabricate that never send anything, all of them begun at the server."""
    never = threading.Event()
    with channel_to(server.grpc_target) as channel:
        ask = channel.stream_stream(FABRICATE)
        calls = [ask(silence(never), metadata=bearing(key)) for _ in range(number)]
        models = channel.unary_unary("/weightloom.v1.FabricationService/ListModels")
        models(b"", metadata=bearing(key))  # it came behind them on their connection
        try:
            yield calls
        finally:
            never.set()


@pytest.fixture
def keys(tmp_path: Path) -> tuple[str, str]:
    return key_for_all(tmp_path / "data"), key_for_all(tmp_path / "data")


def test_those_of_one_key_leave_room_for_another(tmp_path: Path, keys: tuple[str, str]) -> None:
    with running_server(tmp_path / "data", stall_seconds=600, max_queue_seconds=30, **PLACES) as server:
        with silent_calls(server, keys[0], 8), stub_of(server.grpc_target) as stub:
            reply = stub.Fabricate(request_message(INLINE), metadata=bearing(keys[1]))
            assert data_of(reply)
        with stub_of(server.grpc_target) as stub:  # who leaves gives its places back
            assert data_of(stub.Fabricate(request_message(INLINE), metadata=bearing(keys[0])))


def test_who_waits_behind_them_is_told_to_come_again(tmp_path: Path, keys: tuple[str, str]) -> None:
    with (
        running_server(tmp_path / "data", stall_seconds=600, max_queue_seconds=0.2, **PLACES) as server,
        silent_calls(server, keys[0], 2),
        stub_of(server.grpc_target) as stub,
    ):
        request: pb.FabricateRequest = request_message(INLINE)
        refused = failure_of(lambda: list(stub.Fabricate(request, metadata=bearing(keys[0]))))
    assert (refused.status, refused.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "too_many_requests")
    assert "max_bytes_in_flight" in refused.message
