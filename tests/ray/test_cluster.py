"""Three Ray nodes on one machine, one replica on each, and the registry in PostgreSQL."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from typing import Any

import pytest
import urllib3
from support.postgres import Cluster
from support.ray_serve import ROOT, RayServer, environment_of, listening_ports, short_folder, wait_until_serving
from support.server import wait_until
from support.streams import BareClient, bulk, local_hash
from support.vectors import KNOWN_FILES, KNOWN_IDS, KnownFile
from weightloom_client import Client

NODES = 3
STREAMS = 6
SPEC = {"name": "shared", "seed": 5, "tensors": [{"name": "t", "shape": [300, 200], "l": 2}]}
W = {"t": [1.0, -1.0]}


class RayCluster(RayServer):
    """The process of support/ray_cluster.py."""

    def ask(self, line: str) -> str:
        """Its answer to a line."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n".encode())
        self.process.stdin.flush()
        return self.answer()

    def answer(self) -> str:
        """Its next one."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith(b"ANSWER "):
                return line.decode().split()[1]
        raise AssertionError(f"the cluster has ended:\n{self.log.read_text()[-8000:]}")


@pytest.fixture(scope="module")
def server(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayCluster]:
    data_dir = tmp_path_factory.mktemp("ray") / "data"
    with short_folder() as folder:
        settings = {"data_dir": data_dir, "registry_url": cluster.database(), "insecure_no_auth": True, "device": "cpu"}
        log, pipe = folder / "log", subprocess.PIPE
        command = [sys.executable, "-m", "support.ray_cluster", str(NODES)]
        environment = environment_of(folder, **settings)
        environment["RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S"] = "2"
        environment["PYTHONPATH"] = os.pathsep.join([str(ROOT / "tests"), *sys.path])
        with (
            log.open("wb") as output,
            subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=output, env=environment, cwd=folder) as process,
        ):
            running = RayCluster(process, "http://127.0.0.1:8000", "127.0.0.1:50051", data_dir, log)
            try:
                assert running.answer() == "serving"
                wait_until_serving(running)
                yield running
            finally:
                process.kill()


@pytest.mark.parametrize("scheme", ["http", "grpc"])
@pytest.mark.parametrize("known", KNOWN_FILES, ids=KNOWN_IDS)
def test_the_known_answers_come_out_right(server: RayCluster, known: KnownFile, scheme: str) -> None:
    url = server.url if scheme == "http" else f"grpc://{server.grpc_target}"
    with Client(url) as client:
        made = client.fabricate(known.spec, {known.tensor: known.w})[known.tensor].tobytes()
    assert hashlib.sha256(known.elements(made, 4)).hexdigest() == known.entry["sha256"]["F32"]


def test_a_model_registered_through_one_node_is_served_by_all(server: RayCluster) -> None:
    wait_until(lambda: len(listening_ports(30000, 31000)) == NODES)
    replicas = [f"http://127.0.0.{node + 1}:{port}" for node, port in enumerate(listening_ports(30000, 31000))]
    with Client(replicas[0]) as first:
        first.create_model(SPEC)
        expected = first.fabricate("shared", W)["t"]
    for url in replicas:
        with Client(url) as client:
            assert (client.fabricate("shared", W)["t"] == expected).all()


class Streams(threading.Thread):
    """Large files, one after the other, by the SDK; ``errors`` has what went wrong."""

    def __init__(self, url: str, request: dict[str, Any], enough: threading.Event) -> None:
        super().__init__()
        self._url, self._request, self._enough = url, request, enough
        self.expected, self.done, self.errors = local_hash(request), 0, list[str]()

    def run(self) -> None:
        """Until it is enough."""
        spec = {"name": "inline"} | {key: self._request[key] for key in ("seed", "tensors")}
        with Client(self._url) as client:
            while not self._enough.is_set():
                file = BytesIO()
                try:
                    client.fabricate_to(file, spec, self._request["w"])
                    if hashlib.sha256(file.getbuffer()).hexdigest() != self.expected:
                        self.errors.append("wrong bytes")
                    self.done += 1
                except Exception as error:
                    self.errors.append(repr(error))


class Requests(threading.Thread):
    """Small requests, one after the other, each tried once."""

    def __init__(self, url: str, enough: threading.Event) -> None:
        super().__init__()
        self._url, self._enough = url, enough
        self.done, self.failed = 0, list[str]()

    def run(self) -> None:
        """Until it is enough."""
        http = urllib3.PoolManager(retries=False, timeout=30)
        while not self._enough.is_set():
            try:
                status = http.request("GET", f"{self._url}/v1/models/shared").status
                self.failed += [] if status == 200 else [str(status)]
            except urllib3.exceptions.HTTPError as error:
                self.failed.append(repr(error))
            self.done += 1


def node_dies(server: RayCluster) -> str:
    noticed = server.ask("kill")
    return (
        f"a node of {NODES} killed: noticed after {noticed} s, a new node's replica served {server.ask('add')} s later"
    )


def replica_dies(server: RayCluster) -> str:
    os.kill(server.workers()[0], signal.SIGKILL)
    return f"a replica of {NODES} killed: when that was noticed, another one served {server.ask('heal')} s later"


@pytest.mark.parametrize("happens", [replica_dies, node_dies])
def test_what_dies_under_load_costs_nobody_a_file(server: RayCluster, happens: Callable[[RayCluster], str]) -> None:
    enough = threading.Event()
    urls = [server.url, f"grpc://{server.grpc_target}"]
    streams = [Streams(urls[n % 2], bulk(6000, seed=n), enough) for n in range(STREAMS)]
    requests = [Requests(server.url, enough) for _ in range(2)]
    for thread in (*streams, *requests):
        thread.start()
    try:
        wait_until(lambda: all(stream.done for stream in streams))
        told = happens(server)
        before = [stream.done for stream in streams]
        wait_until(lambda: all(stream.done > done + 1 for stream, done in zip(streams, before, strict=True)))
    finally:
        enough.set()
        for thread in (*streams, *requests):
            thread.join()
    done, failed = sum(each.done for each in requests), [error for each in requests for error in each.failed]
    whole = sum(each.done for each in streams)
    print(f"\n{told}; {whole} files whole, {len(failed)} of {done} small requests failed {failed}")  # noqa: T201
    assert [stream.errors for stream in streams] == [[]] * STREAMS
    assert not failed


def test_replicas_that_are_to_end_finish_their_streams(server: RayCluster) -> None:
    """The last test of the cluster."""
    request, digest = bulk(8000, seed=9), hashlib.sha256()
    with BareClient(server.url, request, receive_buffer=65536) as client, ThreadPoolExecutor(1) as pool:
        parts = client.read()
        digest.update(next(parts))
        stopped = pool.submit(server.ask, "stop")
        wait_until(lambda: server.request("GET", "/readyz").status != 200)
        for data in parts:
            digest.update(data)
        assert stopped.result() == "stopped"
    assert digest.hexdigest() == local_hash(request)
