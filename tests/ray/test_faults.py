"""One Ray node heals by itself, its service and its bits the same as before; how long it took is printed."""

from __future__ import annotations

import hashlib
import os
import signal
import time
from collections.abc import Callable, Iterator

import pytest
from support.ray_serve import RayServer, one_node, pids_of, wait_until_serving
from support.streams import bulk, local_hash


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayServer]:
    with one_node(tmp_path_factory.mktemp("ray") / "data", insecure_no_auth=True) as running:
        yield running


def haproxies(server: RayServer) -> list[int]:
    return pids_of(lambda command: command.split(b"\0")[0].endswith(b"/haproxy"))


def replicas(server: RayServer) -> list[int]:
    return server.workers()


@pytest.mark.parametrize(
    ("what", "number"),
    [(replicas, signal.SIGKILL), (replicas, signal.SIGSTOP), (haproxies, signal.SIGKILL)],
    ids=["a replica is killed", "a replica hangs", "HAProxy is killed"],
)
def test_it_heals(
    server: RayServer, request: pytest.FixtureRequest, what: Callable[[RayServer], list[int]], number: signal.Signals
) -> None:
    ids = what(server)
    for pid in ids:
        os.kill(pid, number)
    began = time.monotonic()
    while not set(what(server)) - set(ids):
        time.sleep(0.05)
    wait_until_serving(server)
    print(f"\n{request.node.callspec.id}: served again after {time.monotonic() - began:.1f} s")  # noqa: T201
    reply = server.post_json("/fabricate", bulk(64))
    assert hashlib.sha256(reply.data).hexdigest() == local_hash(bulk(64))
