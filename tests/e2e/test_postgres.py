"""Servers that share a registry in PostgreSQL, and what becomes of them when it restarts, dies, or does not answer."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from support.postgres import PASSWORD, Cluster, running_cluster
from support.server import SECONDS, Server, running_server, wait_until
from weightloom_client import Client

Servers = tuple[Server, Server]
W = {"t": [1, 2]}


def spec(name: str, seed: int = 1) -> dict[str, Any]:
    return {"name": name, "seed": seed, "tensors": [{"name": "t", "shape": [8], "l": 2}]}


def create(server: Server, name: str, seed: int = 1) -> int:
    return server.post_json("/v1/models", spec(name, seed)).status


def make(server: Server, model: str) -> tuple[int, str]:
    """Status and code of a fabrication."""
    reply = server.post_json("/fabricate", {"model": model, "w": W})
    return reply.status, "" if reply.status == 200 else reply.json()["code"]


def make_inline(server: Server) -> int:
    return server.post_json("/fabricate", {"seed": 1, "tensors": spec("x")["tensors"], "w": W}).status


def ready(server: Server) -> tuple[int, str]:
    """Status, and why not."""
    reply = server.request("GET", "/readyz")
    return reply.status, reply.json().get("detail", "")


@pytest.fixture
def own() -> Iterator[Cluster]:
    """A PostgreSQL that this test may do anything to."""
    with running_cluster() as running:
        yield running


@contextmanager
def two_servers(folder: Path, url: str, workers: int = 1) -> Iterator[Servers]:
    with (
        running_server(folder / "first", registry_url=url) as first,
        running_server(folder / "second", registry_url=url, workers=workers) as second,
    ):
        yield first, second
        for server in (first, second):
            told = server.log.read_text() + server.request("GET", "/v1/info").data.decode()
            assert PASSWORD not in told


def assert_goes_on_without(servers: Servers, why: str) -> None:
    """Known models and inline ones are made; what needs the database gets 503 with the reason."""
    for server in servers:
        assert make(server, "known") == (200, "")
        assert make_inline(server) == 200
        with Client(f"grpc://{server.grpc_target}") as client:
            assert client.fabricate("known", W)["t"].shape == (8,)
        assert server.request("GET", "/v1/models/known").status == 200
        assert server.request("GET", "/healthz").status == 200
        assert make(server, "never-seen") == (503, "registry_unavailable")
        assert create(server, "refused") == 503
        assert server.request("DELETE", "/v1/models/known").status == 503
        # for half a second the last try is told, and that may have met a database that was still going away
        wait_until(lambda server=server: why in ready(server)[1])
        assert ready(server)[0] == 503
        without = server.request("GET", "/readyz?exclude=registry")
        assert (without.status, without.json()["status"], why in without.json()["registry"]) == (200, "ready", True)


@contextmanager
def again_and_again(*calls: Callable[[], object]) -> Iterator[None]:
    """Each call in a thread of its own for as long as the context is open, however it ends; then what they raised."""
    over = threading.Event()

    def repeat(call: Callable[[], object]) -> None:
        while not over.is_set():
            call()

    with ThreadPoolExecutor(len(calls)) as pool:
        repeated = [pool.submit(repeat, call) for call in calls]
        try:
            yield
        finally:
            over.set()
    for future in repeated:
        future.result()


def assert_is_whole_again(servers: Servers) -> None:
    for server in servers:
        wait_until(lambda server=server: ready(server)[0] == 200)
    assert create(servers[0], "later") == 201
    assert make(servers[1], "later") == (200, "")
    assert make(servers[1], "refused") == (404, "model_not_found")


def test_one_model_from_everywhere_at_once_is_made_once(cluster: Cluster, tmp_path: Path) -> None:
    with two_servers(tmp_path, cluster.database(), workers=2) as servers, ThreadPoolExecutor(8) as pool:
        for name in ("a", "b", "c"):
            outcomes = Counter(pool.map(lambda i, name=name: create(servers[i % 2], name), range(24)))
            assert outcomes == {201: 1, 200: 23}
        assert {create(server, "a", seed=2) for server in servers} == {409}
        seeds = Counter(pool.map(lambda i: create(servers[i % 2], "contested", seed=i % 4), range(24)))
        assert seeds == {201: 1, 200: 5, 409: 18}
        digests = {server.request("GET", "/v1/models/contested").json()["digest"] for server in servers}
        assert len(digests) == 1


def test_what_one_server_does_the_others_see(cluster: Cluster, tmp_path: Path) -> None:
    with two_servers(tmp_path, cluster.database(), workers=2) as (first, second):
        assert create(first, "m") == 201
        assert make(second, "m") == (200, "")
        second.request("PUT", "/v1/models/m/residency", b'{"residency": "resident"}', content_type="application/json")
        wait_until(lambda: first.request("GET", "/v1/models/m").json()["residency"] == "resident")
        wait_until(lambda: first.request("GET", "/v1/models/m").json()["resident_bytes"] > 0)
        assert first.request("DELETE", "/v1/models/m").status == 204
        assert make(first, "m") == (404, "model_not_found")
        for _ in range(4):  # whichever worker answers
            wait_until(lambda: make(second, "m") == (404, "model_not_found"))
        assert create(second, "m", seed=2) == 201
        wait_until(lambda: make(first, "m") == (200, ""))


def test_a_restart_of_the_database_under_requests(own: Cluster, tmp_path: Path) -> None:
    with two_servers(tmp_path, own.database()) as servers:
        assert create(servers[0], "known") == 201
        assert make(servers[1], "known") == (200, "")
        outcomes = Counter[tuple[int, str]]()

        def ask(server: Server) -> None:
            outcomes[make(server, "known")] += 1

        with again_and_again(*(partial(ask, server) for server in servers)):
            for mode in ("fast", "immediate"):
                own.stop(mode)
                assert_goes_on_without(servers, "Connection refused")
                own.start()
                wait_until(lambda: all(ready(server)[0] == 200 for server in servers))
        assert outcomes.keys() == {(200, "")}, "no request for a known model noticed it"
        assert_is_whole_again(servers)


def test_a_database_that_is_killed_has_what_was_acknowledged(own: Cluster, tmp_path: Path) -> None:
    with two_servers(tmp_path, own.database()) as servers:
        assert create(servers[0], "known") == 201
        assert make(servers[1], "known") == (200, "")
        acknowledged, numbers = list[str](), count()

        def register(server: Server) -> None:
            name = f"m{next(numbers)}"
            if create(server, name) == 201:
                acknowledged.append(name)

        with again_and_again(*(partial(register, server) for server in servers)):
            wait_until(lambda: len(acknowledged) > 40)
            own.kill()
        assert_goes_on_without(servers, "Connection refused")
        own.start()
        assert_is_whole_again(servers)
        missing = [name for name in acknowledged if servers[1].request("GET", f"/v1/models/{name}").status != 200]
        assert missing == []


def test_a_database_that_does_not_answer(own: Cluster, tmp_path: Path) -> None:
    with two_servers(tmp_path, own.database()) as servers:
        assert create(servers[0], "known") == 201
        assert make(servers[1], "known") == (200, "")
        own.pause()
        with ThreadPoolExecutor(12) as pool:  # more than there are threads and connections
            unknown = [pool.submit(make, servers[i % 2], f"unknown{i}") for i in range(12)]
            meanwhile = list[tuple[int, str]]()
            while not all(future.done() for future in unknown):
                meanwhile.append(make(servers[len(meanwhile) % 2], "known"))
            assert set(meanwhile) == {(200, "")}
            assert len(meanwhile) > len(servers), "they waited, and known models did not"
            assert {future.result() for future in unknown} == {(503, "registry_unavailable")}
        assert_goes_on_without(servers, "")
        own.resume()
        assert_is_whole_again(servers)


OPEN = """
import sys
from pathlib import Path
from weightloom.registry import open_registry
open_registry(sys.argv[1], Path()).ping()
"""


def test_eight_processes_migrate_at_once(cluster: Cluster) -> None:
    url = cluster.database()
    processes = [subprocess.Popen([sys.executable, "-c", OPEN, url]) for _ in range(8)]
    assert [process.wait(SECONDS) for process in processes] == [0] * 8


def serve_in_vain(**settings: object) -> tuple[int, str]:
    environment = os.environ | {f"WEIGHTLOOM_{name.upper()}": str(value) for name, value in settings.items()}
    command = [sys.executable, "-m", "weightloom", "serve", "--port", "0", "--grpc-port", "0"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=SECONDS, check=False)
    return done.returncode, done.stderr


def test_what_keeps_a_server_from_starting_is_told_without_the_password(cluster: Cluster, tmp_path: Path) -> None:
    newer = cluster.database()
    subprocess.run([sys.executable, "-c", OPEN, newer], check=True)
    cluster.execute("INSERT INTO weightloom.migrations VALUES (99, 'later', '')", newer.rpartition("/")[2])
    for url, code, why in (
        (newer, 1, "newer weightloom"),
        (cluster.url("nowhere"), 1, 'database "nowhere" does not exist'),
        (f"mysql://me:{PASSWORD}@host/db", 2, "registry_url"),
    ):
        for workers in (1, 2):
            exit_code, told = serve_in_vain(registry_url=url, data_dir=tmp_path, workers=workers)
            assert exit_code == code
            assert why in told.replace("\n", " ")
            assert PASSWORD not in told
            assert "Traceback" not in told


def test_the_command_line_works_on_the_same_registry(cluster: Cluster, tmp_path: Path) -> None:
    url = cluster.database()
    model = Path(__file__).parents[2] / "examples/model.json"
    with running_server(tmp_path / "data", registry_url=url) as server:
        for arguments in (["create", str(model)], ["show", "demo/mlp"]):
            command = [sys.executable, "-m", "weightloom", "models", *arguments]
            environment = os.environ | {"WEIGHTLOOM_REGISTRY_URL": url}
            subprocess.run(command, env=environment, cwd=tmp_path, check=True, capture_output=True)
        assert server.request("GET", "/v1/models/demo/mlp").status == 200


WITHOUT_PSYCOPG = "import sys; sys.modules['psycopg'] = None; from weightloom.cli import main; main()"


def test_without_the_extra_one_line_says_what_to_install(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WITHOUT_PSYCOPG, "serve", "--data-dir", str(tmp_path), "--port", "0"]
    command += ["--grpc-port", "0", "--registry-url", f"postgresql://me:{PASSWORD}@host/db"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert done.returncode == 1
    assert "pip install 'weightloom[server,postgres]'" in done.stderr.replace("\n", " ")
    assert PASSWORD not in done.stderr
    assert "Traceback" not in done.stderr
