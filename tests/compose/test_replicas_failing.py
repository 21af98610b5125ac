"""What fails behind the balancer, and what users notice of it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from support.compose import Deployment, docker
from support.replicas import W, busy_replica, model, ready_servers, register, who_answers, without
from support.server import HTTP, wait_until
from support.streams import BareClient, bulk, local_hash
from weightloom_client import Client

pytestmark = pytest.mark.timeout(1200)
SIDE = 8192  # 256 MiB: no buffers on the way hold it


@pytest.mark.parametrize("front", ["http", "grpc"])
def test_the_sdk_goes_on_when_a_replica_is_killed_in_mid_stream(
    replicas: Deployment, front: str, tmp_path: Path
) -> None:
    killed = []

    def kill_once(done: int, total: int) -> None:
        if not killed:
            killed.append(busy_replica(replicas))
            docker("kill", killed[0])

    request = bulk(SIDE, seed=5)
    spec = {"name": "inline", "seed": request["seed"], "tensors": request["tensors"]}
    with Client(replicas.url if front == "http" else f"grpc://{replicas.grpc_target}") as client:
        client.download(spec, request["w"], tmp_path / "file", progress=kill_once)
    with (tmp_path / "file").open("rb") as file:
        assert hashlib.file_digest(file, "sha256").hexdigest() == local_hash(request)
    assert len(killed) == 1


def test_no_request_fails_after_a_replica_died(replicas: Deployment) -> None:
    names = [f"dying/{number}" for number in range(8)]
    for number, name in enumerate(names):
        assert register(replicas.url, model(name, number)) in (200, 201)
    docker("kill", replicas.containers()[0])
    answering = {who for name in names for who in who_answers(replicas, name).values()}
    assert len(answering) == 1
    replicas.up()
    wait_until(lambda: len({who for name in names for who in who_answers(replicas, name).values()}) == 2)


def test_known_models_are_served_on_while_the_database_is_gone(replicas: Deployment) -> None:
    """Each replica remembers what it has served; requests for a model go where they went before."""
    names = [f"remembered/{number}" for number in range(6)]
    for number, name in enumerate(names):
        assert register(replicas.url, model(name, number)) in (200, 201)
        who_answers(replicas, name)
    with without(replicas, "database"):
        wait_until(lambda: ready_servers(replicas) == 0)
        assert replicas.ready_code() == 503
        for name in names:
            assert fabricated(replicas, name) == 200
        refused = HTTP.request("GET", f"{replicas.url}/v1/models/never/seen")
        assert (refused.status, json.loads(refused.data)["code"]) == (503, "registry_unavailable")
    wait_until(lambda: ready_servers(replicas) == 2)
    assert register(replicas.url, model("after/the/database")) == 201
    assert {fabricated(replicas, name) for name in [*names, "after/the/database"]} == {200}


def test_a_database_that_was_killed_keeps_what_was_acknowledged(replicas: Deployment) -> None:
    (database,) = replicas.containers("database")
    assert register(replicas.url, model("acknowledged")) == 201
    docker("kill", database)
    replicas.up()
    wait_until(lambda: ready_servers(replicas) == 2)
    listed = HTTP.request("GET", f"{replicas.url}/v1/models").json()["models"]
    assert "acknowledged" in {entry["name"] for entry in listed}


def test_a_slow_reader_over_the_balancer_gets_all_of_a_replica_that_stops(replicas: Deployment) -> None:
    request, digest = bulk(4096, seed=6), hashlib.sha256()
    with BareClient(replicas.url, request, receive_buffer=65536) as client:
        stopped = None
        for data in client.read():
            digest.update(data)
            if stopped is None:
                stopped = busy_replica(replicas)
                docker("kill", "--signal", "TERM", stopped)
    assert digest.hexdigest() == local_hash(request)
    assert docker("wait", str(stopped)).strip() == "0"


def fabricated(replicas: Deployment, name: str) -> int:
    body, headers = json.dumps({"model": name, "w": W}).encode(), {"content-type": "application/json"}
    return int(HTTP.request("POST", f"{replicas.url}/fabricate", body=body, headers=headers).status)
