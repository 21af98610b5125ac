"""What tests ask of several replicas behind their balancer."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from support.compose import Deployment, docker
from support.rpc import stub_of
from support.server import HTTP
from weightloom_client.protocol import Wanted
from weightloom_proto.v1 import fabrication_pb2 as pb

W = {"t": [1.0, -0.5, 0.25, 2.0]}
METRICS = "import urllib.request as r; print(r.urlopen('http://127.0.0.1:8000/metrics').read().decode())"


def model(name: str, seed: int = 1, side: int = 64) -> dict[str, Any]:
    """The spec of one tensor that ``W`` is for."""
    return {"name": name, "seed": seed, "tensors": [{"name": "t", "shape": [side, side], "l": 4}]}


def register(url: str, spec: Mapping[str, Any]) -> int:
    """The status of registering a model."""
    headers = {"content-type": "application/json"}
    return int(HTTP.request("POST", f"{url}/v1/models", body=json.dumps(spec).encode(), headers=headers).status)


def who_answers(replicas: Deployment, name: str) -> dict[str, str]:
    """By the way in which a model is asked for: the replica that answers, by what its request ids begin with."""
    body, wanted = json.dumps({"model": name, "w": W}).encode(), Wanted.of(name, W)
    json_type, bytes_type = ({"content-type": f"application/{kind}"} for kind in ("json", "octet-stream"))
    url = f"{replicas.url}/fabricate"
    replies = {
        "JSON": HTTP.request("POST", url, body=body, headers=json_type),
        "safetensors": HTTP.request("POST", f"{url}?model={name}", body=wanted.body, headers=bytes_type),
        "shown": HTTP.request("GET", f"{replicas.url}/v1/models/{name}"),
    }
    assert {reply.status for reply in replies.values()} == {200}
    ids = {way: reply.headers["x-request-id"] for way, reply in replies.items()}
    with stub_of(replicas.grpc_target) as stub:
        call = stub.Fabricate(pb.FabricateRequest(model=name, w={"t": pb.Vector(values=W["t"])}))
        assert sum(len(chunk.data) for chunk in call) == len(replies["JSON"].data)
        ids["gRPC"] = dict(call.initial_metadata())["x-request-id"]
    return {way: text.partition("-")[0] for way, text in ids.items()}


def ready_servers(replicas: Deployment) -> int:
    """How many servers the balancer finds ready."""
    ask = 'exec 3<>/dev/tcp/127.0.0.1/8404; printf "GET /ready-servers HTTP/1.0\\r\\n\\r\\n" >&3; tail -n 1 <&3'
    return int(replicas.compose("exec", "-T", "balancer", "bash", "-c", ask))


def metric(container: str, name: str) -> float:
    """A number without labels of one replica."""
    text = docker("exec", container, "python", "-c", METRICS)
    found = re.search(rf"^{name} (\S+)$", text, re.MULTILINE)
    assert found, text
    return float(found[1])


def busy_replica(replicas: Deployment) -> str:
    """The container in which a stream runs."""
    (busy,) = [container for container in replicas.containers() if metric(container, "weightloom_streams_running")]
    return busy


@contextmanager
def without(replicas: Deployment, service: str) -> Iterator[None]:
    """A service stopped for as long as the context is open."""
    replicas.compose("stop", service)
    try:
        yield
    finally:
        replicas.compose("start", service)
