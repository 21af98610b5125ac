"""`make compose-test`: two replicas behind HAProxy on one PostgreSQL are one service."""

from __future__ import annotations

import hashlib
import json
from contextlib import ExitStack

import pytest
from support.compose import Deployment, docker
from support.replicas import W, metric, model, register, who_answers
from support.server import HTTP
from support.streams import BareClient
from support.vectors import KNOWN_FILES, KNOWN_IDS, KnownFile
from weightloom_client import Client

pytestmark = pytest.mark.timeout(1200)
MAKE_IT = f"""
import urllib.request as r
body = {json.dumps({"model": "by/all", "w": W}).encode()!r}
request = r.Request("http://127.0.0.1:8000/fabricate", body, {{"content-type": "application/json"}})
print(r.urlopen(request).headers["etag"])
"""


@pytest.mark.parametrize("known", KNOWN_FILES, ids=KNOWN_IDS)
@pytest.mark.parametrize("front", ["http", "grpc"])
def test_the_balancer_passes_the_known_answers_on(replicas: Deployment, front: str, known: KnownFile) -> None:
    with Client(replicas.url if front == "http" else f"grpc://{replicas.grpc_target}") as client:
        data = client.fabricate(known.model, {known.tensor: known.w})[known.tensor].tobytes()
    assert hashlib.sha256(known.elements(data, 4)).hexdigest() == known.entry["sha256"]["F32"]


def test_a_model_that_was_registered_once_is_served_by_all(replicas: Deployment) -> None:
    assert register(replicas.url, model("by/all")) == 201
    etags = [docker("exec", container, "python", "-c", MAKE_IT) for container in replicas.containers()]
    assert len(etags) == 2
    assert len(set(etags)) == 1


def test_one_model_goes_to_one_replica_however_it_is_asked_for_and_models_spread(replicas: Deployment) -> None:
    answering = {}
    for number in range(12):
        name = f"spread/{number}"
        assert register(replicas.url, model(name, number)) in (200, 201)
        (answering[name],) = {who for _ in range(3) for who in who_answers(replicas, name).values()}
    assert len(set(answering.values())) == 2


def test_a_model_that_is_asked_for_more_than_one_replica_can_bear_goes_to_others_too(replicas: Deployment) -> None:
    assert register(replicas.url, model("hot", side=4096)) in (200, 201)
    with ExitStack() as stack:
        for _ in range(8):
            stack.enter_context(BareClient(replicas.url, {"model": "hot", "w": W}, receive_buffer=16384))
        running = sorted(metric(container, "weightloom_streams_running") for container in replicas.containers())
    assert sum(running) == 8
    assert running[1] <= 6, "one and a half times the average"
    assert running[1] > running[0], "its own replica has most"


def test_streams_that_share_one_file_spread(replicas: Deployment) -> None:
    assert register(replicas.url, model("striped")) in (200, 201)
    body = json.dumps({"model": "striped", "w": W}).encode()
    answering = set()
    for stream in range(1, 17):
        headers = {"content-type": "application/json", "x-weightloom-stream": str(stream)}
        reply = HTTP.request("POST", f"{replicas.url}/fabricate", body=body, headers=headers)
        answering.add(reply.headers["x-request-id"].partition("-")[0])
    assert len(answering) == 2


def test_requests_without_a_model_go_to_all(replicas: Deployment) -> None:
    ids = {HTTP.request("GET", f"{replicas.url}/v1/models").headers["x-request-id"] for _ in range(8)}
    assert len({text.partition("-")[0] for text in ids}) == 2


def test_json_that_is_longer_than_what_the_balancer_looks_into_passes_and_finds_its_replica(
    replicas: Deployment,
) -> None:
    assert register(replicas.url, model("long")) in (200, 201)
    (usual,) = set(who_answers(replicas, "long").values())
    value = {"model": "long", "w": {"t": [W["t"]] * 50_000}, "rows": {"t": [0, 1]}}
    body = json.dumps(value).encode()
    assert len(body) > 1 << 20
    headers = {"content-type": "application/json"}
    reply = HTTP.request("POST", f"{replicas.url}/fabricate", body=body, headers=headers)
    assert (reply.status, reply.headers["x-request-id"].partition("-")[0]) == (200, usual)


def test_a_body_that_is_no_json_or_no_utf8_gets_the_servers_own_error(replicas: Deployment) -> None:
    for body in (b"{", b"\xff\xfe", b'{"model": 3}', b""):
        headers = {"content-type": "application/json"}
        reply = HTTP.request("POST", f"{replicas.url}/fabricate", body=body, headers=headers)
        assert reply.headers["content-type"] == "application/problem+json"
        assert 400 <= reply.status < 500


def test_nothing_but_the_balancer_is_published_and_nothing_but_servers_meets_the_database(replicas: Deployment) -> None:
    facts = {
        name: [json.loads(docker("inspect", container))[0] for container in replicas.containers(name)]
        for name in ("balancer", "weightloom", "database")
    }
    assert {name: len(containers) for name, containers in facts.items()} == {
        "balancer": 1,
        "weightloom": 2,
        "database": 1,
    }
    published = {
        (name, entry["HostIp"])
        for name, containers in facts.items()
        for one in containers
        for ports in one["NetworkSettings"]["Ports"].values()
        for entry in ports or []
    }
    assert published == {("balancer", "127.0.0.1")}
    networks = {
        name: {text.rpartition("_")[2] for one in containers for text in one["NetworkSettings"]["Networks"]}
        for name, containers in facts.items()
    }
    assert networks == {"balancer": {"default"}, "weightloom": {"default", "database"}, "database": {"database"}}


@pytest.mark.parametrize("service", ["balancer", "database"])
def test_what_stands_beside_the_servers_may_do_as_little(replicas: Deployment, service: str) -> None:
    status = dict(line.split(":\t", 1) for line in replicas.inside("cat /proc/1/status", service).splitlines())
    assert int(status["Uid"].split()[0]) > 0
    assert {int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {0}
    assert status["NoNewPrivs"] == "1"
    assert "Read-only" in replicas.inside("touch /x 2>&1 || true", service)
