"""Thousands of bad requests leave nothing behind: no memory, no file descriptor, no thread."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from fuzz.examples import register
from fuzz.wire import ask
from soak.resources import footprint
from support.rpc import channel_to, failure_of
from support.server import Server, running_server, wait_until
from weightloom_proto.v1 import fabrication_pb2 as pb

MIB = 1 << 20
FIRST, MORE = 100, 250  # rounds
GROWTH = 6 * MIB  # what an allocator may keep for itself
THREADS = 8  # pools make them when all they have are busy, which on a busy machine is late; and keep them
METHOD = "/weightloom.v1.FabricationService/"


def post(path: str, body: bytes, media_type: str = "application/json") -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: {media_type}\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def wrong_http(number: int) -> Iterator[bytes]:
    """Requests that differ from round to round, so that whatever remembers them has ever more to remember."""
    name, digest = f"n{number}", f"{number:064x}"
    spec = {"name": name, "seed": number, "tensors": [{"name": name, "shape": [4], "l": 4}]}
    many = dict.fromkeys((f"{name}.{i}" for i in range(200)), 0)
    header = json.dumps({name: {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}).encode()
    file = len(header).to_bytes(8, "little") + header + bytes(16)
    yield f"GET /{name} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{name}: {name}\r\n\r\n".encode()
    yield f"GET /v1/models/{name} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode()
    yield f"DELETE /v1/models/{digest} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode()
    yield f"PUT /v1/factors/{digest} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 3\r\n\r\nabc".encode()
    yield f"GET /{'a' * 70_000} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
    yield f"{name} rubbish\r\n\r\n".encode()
    yield post("/fabricate", json.dumps({"model": name, "w": {name: [1.0]}}).encode())
    yield post("/fabricate", json.dumps(many | {"model": name}).encode())
    yield post("/fabricate", json.dumps({"model": "demo/mlp", "w": {name: [1.0]}}).encode())
    yield post("/fabricate", json.dumps({key: spec[key] for key in ("seed", "tensors")}).encode())
    yield post("/fabricate", b"[" * 100_000)
    yield post(f"/fabricate?model={name}", file, "application/octet-stream")
    yield post(f"/fabricate?{'&'.join(f'rows={key}=0:300' for key in many)}", file, "application/octet-stream")
    yield post("/v1/models", json.dumps(spec | {"tensors": [{"name": name, "shape": [0]}] * 200}).encode())


def wrong_messages(number: int) -> Iterator[tuple[str, bytes]]:
    """The same over gRPC."""
    name = f"n{number}"
    spec = pb.ModelSpec(name=name, seed=number, tensors=[pb.TensorSpec(name=name, shape=[0] * 100)])
    yield "Fabricate", pb.FabricateRequest(model=name).SerializeToString()
    yield "Fabricate", pb.FabricateRequest(spec=spec).SerializeToString()
    yield "Fabricate", b"\xff" * 1000
    yield "CreateModel", pb.CreateModelRequest(spec=spec).SerializeToString()
    yield "GetModel", pb.GetModelRequest(name=name).SerializeToString()


def misbehave(server: Server, rounds: range) -> None:
    with channel_to(server.grpc_target) as channel:
        for number in rounds:
            for data in wrong_http(number):
                assert ask(server, data).status >= 400, data
            for method, message in wrong_messages(number):
                kind = channel.unary_stream if method == "Fabricate" else channel.unary_unary
                call = kind(METHOD + method)
                failure_of(lambda call=call, message=message: list(call(message, timeout=60)))


def test_bad_requests_leave_nothing_behind(tmp_path: Path) -> None:
    with running_server(tmp_path / "data") as server:
        register(server)
        misbehave(server, range(FIRST))
        before = footprint(server)
        misbehave(server, range(FIRST, FIRST + MORE))
        wait_until(lambda: footprint(server).descriptors <= before.descriptors)
        after = footprint(server)
        assert after.memory - before.memory < GROWTH, f"{(after.memory - before.memory) >> 10} KiB more"
        assert after.threads <= before.threads + THREADS
