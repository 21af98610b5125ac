"""The congruence test: every way in gives the same bytes, those of the known answers."""

from __future__ import annotations

import asyncio
import hashlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, aclosing
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

import pytest
from support.imported import blob_of, imported
from support.rpc import data_of, request_message, spec_message, stub_of
from support.server import Server, running_server
from support.streams import Reader, bulk
from support.vectors import KNOWN_FILES, KNOWN_IDS, KnownFile
from weightloom.engine import Engine, EngineLimits
from weightloom.fabric import DType, VirtualFile, load_backend
from weightloom.fabric import safetensors as format_
from weightloom.fabric.device import Cpu
from weightloom.materialize.batches import Batch, Item
from weightloom.materialize.maker import Maker, MakerOptions
from weightloom.registry import SqliteRegistry
from weightloom.requests import FabricateRequest, request_to_safetensors
from weightloom_client import AsyncClient, Bundle, Client
from weightloom_proto.v1 import fabrication_pb2 as pb


@dataclass
class Way:
    """One known file in one dtype, and what a way in may need."""

    known: KnownFile
    dtype: DType
    server: Server
    folder: Path
    request: FabricateRequest = field(init=False)

    def __post_init__(self) -> None:
        self.request = FabricateRequest(self.known.spec, {self.known.tensor: self.known.w}, self.dtype)

    @property
    def body(self) -> dict[str, object]:
        """The JSON request."""
        return self.known.model | {"w": {self.known.tensor: self.known.w.tolist()}, "dtype": self.dtype.value}


def by_fabric(backend: str) -> Callable[[Way], bytes]:
    def made(way: Way) -> bytes:
        w, backend_ = way.request.w, load_backend(backend)
        file = VirtualFile(way.known.spec, w, dtype=way.dtype, backend=backend_)
        return file.read(0, file.size)

    return made


def by_engine(threads: int) -> Callable[[Way], bytes]:
    async def read(engine: Engine, request: FabricateRequest) -> bytes:
        async with aclosing((await engine.fabricate(request)).tiles()) as tiles:
            return b"".join([bytes(tile) async for tile in tiles])

    def made(way: Way) -> bytes:
        engine = Engine(SqliteRegistry(None), Cpu(load_backend()), EngineLimits(threads=threads))
        try:
            return asyncio.run(read(engine, way.request))
        finally:
            engine.close()

    return made


def by_json(way: Way) -> bytes:
    reply = way.server.post_json("/fabricate", way.body)
    assert reply.status == 200
    return reply.data


def by_safetensors(way: Way) -> bytes:
    body, _ = request_to_safetensors(way.request)
    path = f"/fabricate?dtype={way.dtype}"
    return way.server.request("POST", path, body, content_type="application/octet-stream").data


def by_registered_model(way: Way) -> bytes:
    assert way.server.post_json("/v1/models", way.known.model).status in (200, 201)
    body = {key: way.body[key] for key in ("w", "dtype")} | {"model": way.known.spec.digest}
    try:
        return way.server.post_json("/fabricate", body).data
    finally:
        way.server.request("DELETE", f"/v1/models/{way.known.spec.digest}")


def by_resuming(way: Way) -> bytes:
    first = way.server.post_json("/fabricate", way.body | {"length": 100}).data
    return first + way.server.post_json("/fabricate", way.body | {"offset": 100}).data


def by_grpc(way: Way) -> bytes:
    return grpc_stream(way, request_message(way.body, dtype=f"DTYPE_{way.dtype}"))


def by_grpc_safetensors(way: Way) -> bytes:
    w_file, _ = request_to_safetensors(way.request)
    spec, dtype = spec_message(way.known.model), f"DTYPE_{way.dtype}"
    return grpc_stream(way, pb.FabricateRequest(spec=spec, w_safetensors=w_file, dtype=dtype))


def by_grpc_resuming(way: Way) -> bytes:
    request = request_message(way.body, dtype=f"DTYPE_{way.dtype}", length=100)
    first = grpc_stream(way, request)
    request.ClearField("length")
    request.offset = 100
    return first + grpc_stream(way, request)


def grpc_stream(way: Way, request: pb.FabricateRequest) -> bytes:
    with stub_of(way.server.grpc_target) as stub:
        return data_of(stub.Fabricate(request))


def client_of(transport: str, way: Way) -> Client:
    """A client over a transport; "two" is REST and gRPC as two replicas of one service."""
    rest, grpc = way.server.url, f"grpc://{way.server.grpc_target}"
    urls = {"REST": [rest], "gRPC": [grpc], "two": [rest, grpc]}
    return Client(urls[transport]) if transport in urls else Client.local(backend=transport.removeprefix("local, "))


def by_client(transport: str) -> Callable[[Way], bytes]:
    def made(way: Way) -> bytes:
        file = BytesIO()
        with client_of(transport, way) as client:
            client.fabricate_to(file, way.known.spec, way.request.w, dtype=way.dtype)
        return file.getvalue()

    return made


def by_download(transport: str) -> Callable[[Way], bytes]:
    def made(way: Way) -> bytes:
        with client_of(transport, way) as client:
            client.download(way.known.spec, way.request.w, way.folder / "downloaded", dtype=way.dtype, verify="full")
        return (way.folder / "downloaded").read_bytes()

    return made


def by_arrays(transport: str) -> Callable[[Way], bytes]:
    """The arrays of ``fabricate`` and of ``iter_tensors``, behind the header that belongs before them."""

    def made(way: Way) -> bytes:
        with client_of(transport, way) as client:
            arrays = client.fabricate(way.known.model, way.request.w, dtype=way.dtype, verify="full")
            tensors = dict(client.iter_tensors(Bundle(way.known.spec, way.request.w), dtype=way.dtype))
        assert arrays[way.known.tensor].tobytes() == tensors[way.known.tensor].tobytes()
        return format_.header_of(by_fabric("numba")(way)) + arrays[way.known.tensor].tobytes()

    return made


def by_async_client(way: Way) -> bytes:
    async def download() -> None:
        async with AsyncClient(way.server.url) as client:
            await client.download(way.known.spec, way.request.w, way.folder / "downloaded", dtype=way.dtype)

    asyncio.run(download())
    return (way.folder / "downloaded").read_bytes()


def by_command_line(*options: str) -> Callable[[Way], bytes]:
    def made(way: Way) -> bytes:
        request, output = way.folder / "request.json", way.folder / "made.safetensors"
        request.write_text(json.dumps(way.body))
        more = [option.format(url=way.server.url) for option in options]
        command = [sys.executable, "-m", "weightloom", "fabricate", str(request), "-o", str(output), *more]
        subprocess.run(command, check=True, capture_output=True)
        return output.read_bytes()

    return made


def by_batch_work(way: Way) -> bytes:
    """Together with files of other w's."""
    rows: list[dict[str, object]] = [{"file": f"{i}", **way.body} for i in range(5)]
    for i, row in enumerate(rows):
        row["w"] = {way.known.tensor: (way.known.w * (i + 1)).tolist()}
    items = [Item(i, f"{i}", json.dumps(row).encode(), None) for i, row in enumerate(rows)]
    outcomes = Maker(MakerOptions(str(way.folder / "batch"))).make(Batch(items, {}))
    assert {outcome.state for outcome in outcomes} == {"made"}
    return (way.folder / "batch/0").read_bytes()


WAYS: dict[str, Callable[[Way], bytes]] = {
    "fabric, numpy": by_fabric("numpy"),
    "fabric, numba": by_fabric("numba"),
    "engine, one thread": by_engine(1),
    "engine, three threads": by_engine(3),
    "REST, JSON": by_json,
    "REST, safetensors": by_safetensors,
    "REST, registered model": by_registered_model,
    "REST, in two parts": by_resuming,
    "gRPC": by_grpc,
    "gRPC, safetensors": by_grpc_safetensors,
    "gRPC, in two parts": by_grpc_resuming,
    "client, REST": by_client("REST"),
    "client, gRPC": by_client("gRPC"),
    "client, local, numpy": by_client("local, numpy"),
    "client, local, numba": by_client("local, numba"),
    "client, two replicas": by_client("two"),
    "client, file over REST": by_download("REST"),
    "client, file over gRPC": by_download("gRPC"),
    "client, local file": by_download("local, auto"),
    "client, arrays over REST": by_arrays("REST"),
    "client, arrays over gRPC": by_arrays("gRPC"),
    "client, local arrays": by_arrays("local, auto"),
    "client, asyncio": by_async_client,
    "batch work": by_batch_work,
    "command line": by_command_line(),
    "command line, server": by_command_line("--url", "{url}"),
}


def check(way_in: Callable[[Way], bytes], way: Way) -> None:
    data = way_in(way)
    assert data == by_fabric("numba")(way), "header bytes count too"
    entry = format_.layout(data)[0][way.known.tensor]
    elements = way.known.elements(data[entry.begin : entry.end], way.dtype.itemsize)
    assert hashlib.sha256(elements).hexdigest() == way.known.entry["sha256"][way.dtype]


@pytest.mark.parametrize("dtype", DType)
@pytest.mark.parametrize("known", KNOWN_FILES, ids=KNOWN_IDS)
@pytest.mark.parametrize("way_in", WAYS.values(), ids=WAYS.keys())
def test_every_way_in_gives_the_same_bytes(
    way_in: Callable[[Way], bytes], known: KnownFile, dtype: DType, server: Server, tmp_path: Path
) -> None:
    check(way_in, Way(known, dtype, server, tmp_path))


@pytest.fixture(scope="module", params=["1 worker", "2 workers", "1 worker under load", "2 workers under load"])
def busy(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Server]]:
    """A server for each residency, with so many workers, alone or while bulk streams are drained all the time."""
    workers = int(request.param[0])
    with ExitStack() as stack:
        servers: dict[str, Server] = {}

        def server_of(residency: str) -> Server:
            if residency not in servers:
                folder = tmp_path_factory.mktemp("busy") / "data"
                servers[residency] = stack.enter_context(running_server(folder, workers=workers, residency=residency))
                if request.param.endswith("load"):
                    for seed in range(3):
                        stack.enter_context(Reader(servers[residency], bulk(1 << 17, r=2 + 20 * seed, seed=seed)))
            return servers[residency]

        yield server_of


NETWORK_WAYS = ("REST, JSON", "REST, safetensors", "REST, in two parts", "gRPC", "gRPC, in two parts")


@pytest.mark.parametrize("residency", ["virtual", "resident"])
@pytest.mark.parametrize("way_in", NETWORK_WAYS)
def test_every_kind_of_server_gives_the_same_bytes_at_once(
    way_in: str, residency: str, busy: Callable[[str], Server], tmp_path: Path
) -> None:
    """All known files in all dtypes, twice each and many at the same time, so that passes are shared and T's filled."""
    server = busy(residency)
    ways = [Way(known, dtype, server, tmp_path) for known in KNOWN_FILES for dtype in DType] * 2
    with ThreadPoolExecutor(8) as pool:
        for _ in pool.map(lambda way: check(WAYS[way_in], way), ways):
            pass


@pytest.mark.parametrize("transport", ["REST", "gRPC", "local, numpy", "local, numba"])
@pytest.mark.parametrize("known", KNOWN_FILES, ids=KNOWN_IDS)
def test_imported_factors_give_the_bytes_of_the_same_drawn_ones(
    known: KnownFile, transport: str, server: Server, tmp_path: Path
) -> None:
    factors = known.spec.tensors[0].factors(known.spec.seed)
    assert factors is not None
    blob = blob_of(factors)
    tensor = imported(known.model["tensors"][0], blob)
    with client_of(transport, Way(known, DType.F32, server, tmp_path)) as client:
        client.put_factors(blob)
        for dtype in DType:
            made = client.fabricate(known.model | {"tensors": [tensor]}, {known.tensor: known.w}, dtype=dtype)
            elements = known.elements(made[known.tensor].tobytes(), dtype.itemsize)
            assert hashlib.sha256(elements).hexdigest() == known.entry["sha256"][dtype]
