"""kill -9 in the middle of everything: what was acknowledged is there again, and cut streams go on at their byte."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import grpc
import pytest
import urllib3
from support.rpc import data_of, stub_of
from support.server import Server, running_server, wait_until
from support.streams import BareClient, bulk, local_hash
from weightloom_proto.v1 import fabrication_pb2 as pb

MODELS = 3
SIDE = 3000  # 36 MB, far more than all buffers on the way hold


def model(number: int) -> dict[str, Any]:
    return {"name": f"kept/{number}", **{key: bulk(SIDE, seed=number)[key] for key in ("seed", "tensors")}}


def by_name(number: int) -> dict[str, Any]:
    return {"model": f"kept/{number}", "w": bulk(SIDE)["w"]}


@dataclass
class Stream:
    """What came of one file until the server was gone."""

    number: int
    etag: str = ""
    size: int = 0
    data: bytearray = field(default_factory=bytearray)

    def read_until_it_dies(self, server: Server, killed: threading.Event) -> None:
        """A little; then, once the server is gone, what is left in the buffers."""
        with suppress(OSError, AssertionError, grpc.RpcError):
            for piece in self.pieces(server):
                self.data += piece
                if len(self.data) > 1 << 20:
                    killed.wait()

    def pieces(self, server: Server) -> Iterator[bytes]:
        raise NotImplementedError

    def rest(self, server: Server) -> bytes:
        raise NotImplementedError


class RestStream(Stream):
    def pieces(self, server: Server) -> Iterator[bytes]:
        with BareClient(server.url, by_name(self.number), receive_buffer=65536) as client:
            self.etag, self.size = client.headers["etag"], client.length
            yield from client.read()

    def rest(self, server: Server) -> bytes:
        reply = server.post_json("/fabricate", by_name(self.number) | {"offset": len(self.data)}, if_match=self.etag)
        assert reply.status == 206
        return reply.data


class RpcStream(Stream):
    def pieces(self, server: Server) -> Iterator[bytes]:
        with stub_of(server.grpc_target, grpc__http2__bdp_probe=0) as stub:  # or its window might grow to hold all
            for chunk in stub.Fabricate(self.request()):
                self.etag, self.size = self.etag or chunk.etag, self.size or chunk.total_size
                yield chunk.data

    def rest(self, server: Server) -> bytes:
        with stub_of(server.grpc_target) as stub:
            return data_of(stub.Fabricate(self.request(offset=len(self.data), if_match=self.etag)))

    def request(self, **fields: Any) -> pb.FabricateRequest:
        w = {name: pb.Vector(values=values) for name, values in by_name(self.number)["w"].items()}
        return pb.FabricateRequest(model=f"kept/{self.number}", w=w, **fields)


def register_until_it_dies(server: Server, who: int, acknowledged: dict[str, str]) -> None:
    """Over REST or gRPC, by ``who``; ``acknowledged`` gets digests by name."""
    register = register_by_rest if who % 2 else register_by_rpc
    with suppress(urllib3.exceptions.HTTPError, grpc.RpcError), stub_of(server.grpc_target) as stub:
        for number in count():
            name = f"new/{who}/{number}"
            acknowledged[name] = register(server, stub, name, number)


def register_by_rest(server: Server, _: Any, name: str, seed: int) -> str:
    value = {"name": name, "seed": seed, "tensors": [{"name": "t", "shape": [2]}]}
    while (reply := server.post_json("/v1/models", value)).status == 503:
        pass  # the disk is slow: its turn did not come
    assert reply.status == 201, reply.data
    return str(reply.json()["digest"])


def register_by_rpc(_: Server, stub: Any, name: str, seed: int) -> str:
    spec = pb.ModelSpec(name=name, seed=seed, tensors=[pb.TensorSpec(name="t", shape=[2])])
    return str(stub.CreateModel(pb.CreateModelRequest(spec=spec)).digest)


def live_until_killed(server: Server, streams: list[Stream]) -> dict[str, str]:
    """Register and stream at the same time, and kill -9 in the middle: what was acknowledged by then."""
    acknowledged, killed = {}, threading.Event()
    for number in range(MODELS):
        acknowledged[f"kept/{number}"] = server.post_json("/v1/models", model(number)).json()["digest"]
    with ThreadPoolExecutor(len(streams) + 4) as pool:
        done = [pool.submit(stream.read_until_it_dies, server, killed) for stream in streams]
        done += [pool.submit(register_until_it_dies, server, who, acknowledged) for who in range(4)]
        try:
            wait_until(lambda: len(acknowledged) > 60 and all(len(stream.data) > 1 << 20 for stream in streams))
            wait_until(lambda: {f"new/{who}/0" for who in range(4)} <= acknowledged.keys())  # each has begun
        finally:
            try:
                server.kill()
            finally:
                killed.set()
    for future in done:
        future.result()
    return acknowledged


@pytest.mark.parametrize("workers", [1, 2])
def test_kill_9_in_the_middle_of_registrations_and_streams_loses_nothing(tmp_path: Path, workers: int) -> None:
    streams = [kind(number) for kind in (RestStream, RpcStream) for number in range(MODELS)]
    with running_server(tmp_path / "data", workers=workers) as server:
        acknowledged = live_until_killed(server, streams)
    assert {name.rpartition("/")[0] for name in acknowledged} == {"kept", *(f"new/{who}" for who in range(4))}
    with running_server(tmp_path / "data", workers=workers) as again:
        for name, digest in acknowledged.items():
            assert again.request("GET", f"/v1/models/{name}").json()["digest"] == digest, name
        for stream in streams:
            assert 0 < len(stream.data) < stream.size, "it was cut in the middle"
            whole = stream.data + stream.rest(again)
            expected = local_hash(model(stream.number) | {"w": bulk(SIDE)["w"]})
            assert hashlib.sha256(whole).hexdigest() == expected
