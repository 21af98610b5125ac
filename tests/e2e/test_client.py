"""The client with real servers that die, are full, or share one file's transfer; and with programs that are killed."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.metrics import scrape, value
from support.proxy import delay, proxy_to
from support.server import Server, running_server, wait_until
from support.streams import Reader, bulk, local_hash
from weightloom_client import AsyncClient, Client, RetryPolicy, ServerBusy, ServerUnreachable

SPEC_FIELDS = ("seed", "tensors")


def split(request: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    return {"name": "inline"} | {key: request[key] for key in SPEC_FIELDS}, request["w"]


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def other(tmp_path: Path) -> Iterator[Server]:
    """A second server, which a test may kill."""
    with running_server(tmp_path / "other") as server:
        yield server


@pytest.mark.parametrize("scheme", ["http", "grpc"])
def test_a_server_killed_in_mid_download_is_replaced_by_another_one(
    server: Server, other: Server, tmp_path: Path, scheme: str
) -> None:
    request, killed = bulk(4000), threading.Event()
    urls = [other.url, server.url] if scheme == "http" else [f"grpc://{s.grpc_target}" for s in (other, server)]

    def kill(done: int, total: int) -> None:
        if done > 10_000_000 and not killed.is_set():
            killed.set()
            other.kill()

    with Client(urls) as client:
        client.download(*split(request), tmp_path / "t.safetensors", progress=kill, verify="full")
    assert killed.is_set()
    assert sha256(tmp_path / "t.safetensors") == local_hash(request)


def test_an_only_server_that_is_killed_leaves_an_error_and_what_has_come(
    server: Server, other: Server, tmp_path: Path
) -> None:
    request, target = bulk(4000), tmp_path / "t.safetensors"

    def kill(done: int, total: int) -> None:
        if done > 10_000_000 and other.process.poll() is None:
            other.kill()

    with (
        Client(other.url, retries=RetryPolicy(tries=2, first_pause=0.01)) as client,
        pytest.raises(ServerUnreachable),
    ):
        client.download(*split(request), target, progress=kill)
    (part,) = tmp_path.glob(".t.safetensors.*.part")
    seen: list[int] = []
    with Client(server.url) as client:
        client.download(*split(request), target, progress=lambda done, total: seen.append(done))
    assert seen[0] > 10_000_000, "it went on where the other server died"
    assert sha256(target) == local_hash(request)
    assert not part.exists()


PROGRAM = """
import json, sys
from weightloom_client import Client
url, request, target = sys.argv[1:]
request = json.loads(request)
w = request.pop("w")
def tell(done, total):
    print(done, flush=True)
Client(json.loads(url)).download({"name": "inline"} | request, w, target, progress=tell)
"""


@pytest.mark.parametrize("replicas", [1, 2])
def test_a_program_that_is_killed_goes_on_with_its_download(server: Server, tmp_path: Path, replicas: int) -> None:
    """From several replicas at once the file has holes, so it begins anew."""
    request, target = bulk(4000), tmp_path / "t.safetensors"
    with proxy_to(server.url, delay(0.02), faults=99) as slow:
        command = [sys.executable, "-c", PROGRAM, json.dumps([slow.url] * replicas), json.dumps(request), str(target)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as program:
            assert program.stdout is not None
            while int(program.stdout.readline()) < 3_000_000:
                pass
            program.kill()
    assert not target.exists()
    assert len([*tmp_path.glob(".t.safetensors.*")]) == 1
    seen: list[int] = []
    with Client(server.url) as client:
        client.download(*split(request), target, progress=lambda done, total: seen.append(done))
    assert (seen[0] > 2_000_000) == (replicas == 1)
    assert sha256(target) == local_hash(request)
    assert [path.name for path in tmp_path.iterdir()] == [target.name]


def test_a_part_of_other_weights_is_never_gone_on_with(server: Server, tmp_path: Path) -> None:
    target = tmp_path / "t.safetensors"
    request, changed = bulk(1000), bulk(1000) | {"w": {"t": [9.0, 9.0, 9.0, 9.0]}}

    class Stop(Exception):
        pass

    def stop(done: int, total: int) -> None:
        if done > 2_000_000:
            raise Stop

    with Client(server.url) as client:
        with pytest.raises(Stop):
            client.download(*split(request), target, progress=stop)
        client.download(*split(changed), target)
        assert sha256(target) == local_hash(changed)
        client.download(*split(request), target)
    assert sha256(target) == local_hash(request)


def test_a_large_file_comes_from_several_replicas_at_once(server: Server, other: Server, tmp_path: Path) -> None:
    request = bulk(5000)
    seen: list[tuple[int, int]] = []
    with (
        proxy_to(server.url, delay(0)) as first,
        proxy_to(other.url, delay(0)) as second,
        Client([first.url, second.url]) as client,
    ):
        client.download(*split(request), tmp_path / "t", progress=lambda done, total: seen.append((done, total)))
        arrays = client.fabricate(*split(request), verify="full")
        assert first.connections
        assert second.connections
    assert sha256(tmp_path / "t") == local_hash(request)
    assert (tmp_path / "t").read_bytes().endswith(arrays["t"].tobytes())
    assert seen[-1] == (seen[-1][1], (tmp_path / "t").stat().st_size)


def test_a_full_server_is_asked_again_after_its_retry_after(tmp_path: Path) -> None:
    """One stream and no queue: a second one is refused until the first reader has gone."""
    with running_server(tmp_path / "data", max_streams=1, max_queued=0) as server:
        with Reader(server, bulk(1 << 18)), Client(server.url, retries=RetryPolicy(tries=1)) as client:
            wait_until(lambda: server.post_json("/fabricate", bulk(1000)).status == 429)
            with pytest.raises(ServerBusy) as told:
                client.fabricate(*split(bulk(1000)))
            assert told.value.code == "too_many_requests"
            assert told.value.retry_after
        wait_until(lambda: value(scrape(server), "streams_running") == 0)  # the reader's place is free again
        with Client(server.url) as client, ThreadPoolExecutor(1) as pool:
            with Reader(server, bulk(1 << 18)):
                before = refused(server)
                made = pool.submit(client.fabricate, *split(bulk(1000)))
                wait_until(lambda: refused(server) > before)
            assert made.result()["t"].shape == (1000, 1000)


def refused(server: Server) -> float:
    return value(scrape(server), "requests_total", front="rest", call="fabricate", code="too_many_requests")


def test_many_calls_run_at_once_in_one_event_loop(server: Server) -> None:
    async def run() -> None:
        requests = [bulk(64, seed=seed) for seed in range(40)]
        async with AsyncClient(server.url) as client, AsyncClient.local() as local:
            made = await asyncio.gather(*(client.fabricate(*split(request)) for request in requests))
            for request, arrays in zip(requests, made, strict=True):
                assert np.array_equal((await local.fabricate(*split(request)))["t"], arrays["t"])
            await client.create_model(split(requests[0])[0] | {"name": "client/async"})
            assert "client/async" in [model["name"] async for model in client.list_models()]
            assert [name async for name, _ in client.iter_tensors("client/async", requests[0]["w"])] == ["t"]
            await client.delete_model("client/async")

    asyncio.run(run())


def test_a_cancelled_call_stops_receiving(server: Server, tmp_path: Path) -> None:
    seen: list[int] = []

    async def run(url: str) -> None:
        async with AsyncClient(url) as client:
            call = client.download(*split(bulk(4000)), tmp_path / "t", progress=lambda done, total: seen.append(done))
            task = asyncio.create_task(call)
            while not seen:
                await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    with proxy_to(server.url, delay(0.02), faults=99) as slow:
        asyncio.run(run(slow.url))
    assert seen[-1] < 30_000_000
    assert not (tmp_path / "t").exists()


def test_a_model_larger_than_memory_is_read_tensor_by_tensor(server: Server) -> None:
    """4 GiB in tensors of 64 MiB, by a program that may have 1.5 GiB of address space."""
    program = """
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, (1536 << 20, 1536 << 20))
from weightloom_client import Client
tensors = [{"name": f"t{i}", "shape": [4096, 4096], "l": 1} for i in range(64)]
with Client(sys.argv[1]) as client:
    made = client.iter_tensors({"name": "x", "seed": 1, "tensors": tensors}, {f"t{i}": [1] for i in range(64)})
    print(sum(array.nbytes for _, array in made))
"""
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", program, server.url], capture_output=True, text=True, check=False, env=environment
    )
    assert done.stdout.strip() == str(4 << 30), done.stderr


def test_a_call_gives_up_when_its_budget_is_spent() -> None:
    patient = RetryPolicy(tries=10_000, budget=0.5)
    with (
        Client("http://127.0.0.1:1", retries=patient) as client,
        pytest.raises(ServerUnreachable, match="without progress"),
    ):
        client.get_model("x")
