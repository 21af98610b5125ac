"""How calls behave around the transfer itself: odd names, forks, faults of one replica, cancelling, closing."""

from __future__ import annotations

import asyncio
import io
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.foreign import other_server
from support.imported import sha256_of
from support.server import Server, wait_until
from support.streams import bulk
from weightloom_client import AsyncClient, Client, ModelNotFound, RequestRejected, RetryPolicy, ServerFailed
from weightloom_client.jax import to_jax

MODEL, W = {"name": "inline"} | {key: bulk(8)[key] for key in ("seed", "tensors")}, bulk(8)["w"]
NOWHERE = "http://127.0.0.1:1"


@pytest.mark.parametrize("name", ["calls/zzz/../kept", "calls/./kept", "calls//kept", "", ".", ".."])
def test_a_name_is_never_taken_for_the_path_of_another_model(server: Server, name: str) -> None:
    with Client(server.url) as client:
        client.create_model(MODEL | {"name": "calls/kept"})
        for call in (client.get_model, client.delete_model, lambda name: client.set_residency(name, "auto")):
            with pytest.raises(ModelNotFound):
                call(name)
        client.delete_model("calls/kept")


def test_a_fault_of_one_replica_is_made_good_by_another(server: Server) -> None:
    with other_server(500, {}, b'{"code": "internal", "errors": null}') as broken:
        with Client([broken, server.url], verify="full") as client:
            assert client.fabricate(MODEL, W)["t"].shape == (8, 8)
        with Client([broken, broken]) as client, pytest.raises(ServerFailed, match="500 internal"):
            client.fabricate(MODEL, W)


def test_a_replica_that_never_heard_of_a_deletion_has_not_done_it(server: Server) -> None:
    with (
        Client([NOWHERE, server.url], retries=RetryPolicy(first_pause=0.01)) as client,
        pytest.raises(ModelNotFound),
    ):
        client.delete_model("calls/never-was")


def test_what_is_too_large_is_the_same_error_over_both_transports(server: Server) -> None:
    spec = {"name": "large", "seed": 1, "tensors": [{"name": "t", "shape": [1 << 25], "kind": "identity"}]}
    for url in (server.url, f"grpc://{server.grpc_target}"):
        with Client(url) as client, pytest.raises(RequestRejected) as refused:
            client.fabricate(spec, {"t": np.zeros(1 << 25, np.float32)})
        assert (refused.value.status, refused.value.code) == (413, "body_too_large")


class Little(io.RawIOBase):
    """Takes 1000 bytes at a time, as a socket or a pipe may."""

    def __init__(self) -> None:
        super().__init__()
        self.data = b""

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int | None:
        self.data += bytes(data[:1000])
        return min(len(data), 1000)


class Nothing(Little):
    def write(self, data: Any, /) -> int | None:
        return None


def test_files_that_take_a_little_at_a_time_get_all_of_it(server: Server) -> None:
    request = bulk(100)
    model = MODEL | {"tensors": request["tensors"]}
    whole, little = io.BytesIO(), Little()
    with Client(server.url) as client:
        client.fabricate_to(whole, model, W)
        client.fabricate_to(little, model, W)
        assert little.data == whole.getvalue()
        with pytest.raises(BlockingIOError):
            client.fabricate_to(Nothing(), model, W)


FORKED = """
import os, sys
import numpy as np
from weightloom_client import Client

url, model, w = sys.argv[1], eval(sys.argv[2]), eval(sys.argv[3])
client = Client(url) if url else Client.local()
expected = client.fabricate(model, w)["t"]
children = []
for _ in range(4):
    if not (child := os.fork()):
        try:
            for _ in range(20):
                assert np.array_equal(client.fabricate(model, w)["t"], expected)
        except BaseException:
            os._exit(1)
        os._exit(0)
    children.append(child)
assert all(os.waitpid(child, 0)[1] == 0 for child in children)
"""


@pytest.mark.skipif(not hasattr(sys, "getswitchinterval") or sys.platform == "win32", reason="no fork here")
@pytest.mark.parametrize("kind", ["REST", "local"])
def test_children_of_a_fork_do_not_take_each_others_replies(server: Server, kind: str) -> None:
    """As data loaders of PyTorch do."""
    url = server.url if kind == "REST" else ""
    command = [sys.executable, "-c", FORKED, url, repr(MODEL), repr(W)]
    subprocess.run(command, check=True, capture_output=True, timeout=200)


def test_a_closed_client_says_so(server: Server) -> None:
    for url in (server.url, f"grpc://{server.grpc_target}"):
        client = Client(url)
        client.close()
        with pytest.raises(RuntimeError, match="the client is closed"):
            client.fabricate(MODEL, W)


def test_one_may_leave_an_async_iterator_and_close_the_client(server: Server) -> None:
    async def main() -> None:
        async with AsyncClient(server.url) as client:
            left = client.iter_tensors(MODEL, W)
            async for name, _ in left:
                assert name == "t"
                break
        await left.aclose()  # type: ignore[attr-defined]

    asyncio.run(main())


def test_a_cancelled_upload_is_not_made(server: Server) -> None:
    blob = np.random.default_rng(5).normal(size=40_000_000).astype("<f4").tobytes()  # a second or so
    path = f"/v1/factors/{sha256_of(blob)}"

    async def main() -> None:
        async with AsyncClient(server.url) as client:
            upload = asyncio.create_task(client.put_factors(blob))
            while not [*server.data_dir.glob("factors/.*.part")]:
                assert not upload.done()
                await asyncio.sleep(0.001)
            server.process.send_signal(signal.SIGSTOP)  # or all of it might be there before the client is heard
            upload.cancel()
            with pytest.raises(asyncio.CancelledError):
                await upload

    try:
        asyncio.run(main())
    finally:
        server.process.send_signal(signal.SIGCONT)
    wait_until(lambda: not [*server.data_dir.glob("factors/.*.part")])
    assert server.request("GET", path).status == 404


@pytest.mark.parametrize("rows", [{"t": (0.9, 2.9)}, {"t": ("0", "2")}])
def test_rows_are_whole_numbers(server: Server, rows: Any) -> None:
    with Client(server.url) as client, pytest.raises(TypeError):
        client.fabricate(MODEL, W, rows=rows)


def test_an_unknown_residency_is_told_alike_everywhere(server: Server, tmp_path: Path) -> None:
    for client in (Client(server.url), Client(f"grpc://{server.grpc_target}"), Client.local(tmp_path)):
        with client, pytest.raises(ValueError, match="residency: got 'cold', expected None or one of virtual"):
            client.set_residency("m", "cold")


def test_jax_arrays_do_not_change_with_numpys() -> None:
    array = np.zeros(1000, np.float32)
    given = to_jax({"a": array})["a"]
    array[:] = 1
    assert float(given.sum()) == 0
