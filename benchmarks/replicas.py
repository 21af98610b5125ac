"""Several replicas, as docker-compose.replicas.yml has them: ``python benchmarks/replicas.py``, with a Docker engine.

Two deployments run side by side, one of one replica and one of two, each with its balancer and database; only one of
them is asked at a time. "Through the balancer / direct" asks a container's own address both times, so that the engine's
port forwarding is in neither; the engine must be on this machine for that. All share its cores with the clients: on two
cores a second replica has hardly any to itself, and a balancer takes its own from the server. What the environment
names as images is run (HAPROXY_IMAGE, POSTGRES_IMAGE), see tests/support/compose.py.

Not part of ``make bench``: it takes minutes and an engine.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from client import Request, client_process, download
from common import Row, interleave, note, one_tensor, print_table, random_w, ratio, spread
from grpc_client import grpc_download, grpc_message
from load import drain, hammer_all

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from support.compose import REPLICAS, Deployment, build_image, deployment, docker, image_of  # noqa: E402
from support.replicas import register  # noqa: E402
from support.server import HTTP  # noqa: E402
from support.traffic import traffic_to  # noqa: E402

NAMES = [f"benchmark/{number}" for number in range(16)]  # of small models, which the balancer spreads
SECONDS, ROUNDS, KILLS, REST, GRPC = 0.8, 7, 5, 8000, 50051


def run() -> list[Row]:
    """The rows of the table."""
    build_image()
    images = {f"{name.upper()}_IMAGE": image_of(name) for name in ("haproxy", "postgres")}
    with ExitStack() as stack:
        one, two = (
            stack.enter_context(deployment(REPLICAS, REPLICAS=str(count), POSTGRES_PASSWORD="benchmark", **images))
            for count in (1, 2)
        )
        for running in (one, two):
            for number, name in enumerate(NAMES):
                register(running.url, one_tensor(64, 64, 2, seed=number, name=name))
            for number in range(2):
                register(running.url, one_tensor(4096, 4096, 2, seed=number, name=f"large/{number}"))
        return [*_speed(one, two), *_death(two), *_roll(two)]


def _speed(one: Deployment, two: Deployment) -> list[Row]:
    front, server = address(one, "balancer"), address(one, "weightloom")
    fronts = {"one": front, "two": address(two, "balancer"), "direct": server}
    with client_process() as call:
        cases = {}
        for name, host in fronts.items():
            small = [small_request(host, model) for model in NAMES]
            large = [small_request(host, f"large/{number}") for number in range(2)]
            cases[f"small, {name}"] = lambda small=small: call(hammer_all, small, SECONDS).per_second
            cases[f"two of 64 MiB, {name}"] = lambda large=large: call(drain, large).per_second
            cases[f"64 MiB, {name}"] = lambda large=large: speed(call(download, large[0]))
        message = grpc_message("large/0")
        for name, host in (("one", front), ("direct", server)):
            cases[f"gRPC, {name}"] = lambda host=host: speed(call(grpc_download, GRPC, message, host))
        rates = interleave(cases, ROUNDS)
    for name, values in rates.items():
        unit, scale = ("requests/s", 1.0) if name.startswith("small") else ("MB/s", 1e-6)
        note(f"{name}: {spread(values, 0, scale)} {unit}")
    pairs = {
        "requests per second, 16 models, two replicas / one": ("small, two", "small, one"),
        "bytes per second, two streams of 64 MiB, two replicas / one": ("two of 64 MiB, two", "two of 64 MiB, one"),
        "requests per second, through the balancer / direct": ("small, one", "small, direct"),
        "64 MiB over REST, through the balancer / direct": ("64 MiB, one", "64 MiB, direct"),
        "64 MiB over gRPC, through the balancer / direct": ("gRPC, one", "gRPC, direct"),
    }
    return [Row.at_least("replicas", what, ratio(rates[a], rates[b])) for what, (a, b) in pairs.items()]


def _death(two: Deployment) -> list[Row]:
    """How long the requests take that are sent the moment a replica is gone; those of every model, so of both."""
    seconds, failed = [], 0
    for _ in range(KILLS):
        two.up()
        for name in NAMES:
            post(two, name)
        docker("kill", two.containers()[0])
        for name in NAMES:
            began = time.perf_counter()
            failed += post(two, name) != 200
            seconds.append(time.perf_counter() - began)
    two.up()
    what = f"requests that failed after a replica was killed, of {len(seconds)}"
    return [
        Row.below("replicas", "slowest request after a replica was killed", max(seconds), 5, "s"),
        Row.below("replicas", what, failed, 1, "requests"),
    ]


def _roll(two: Deployment) -> list[Row]:
    with traffic_to(two.url, two.grpc_target) as traffic:
        began = time.perf_counter()
        subprocess.run([str(ROOT / "deploy/roll.sh")], env=two.environment, check=True, capture_output=True)
        seconds = time.perf_counter() - began
    for failure in traffic.failures:
        note(failure)
    what = f"requests that failed while both replicas were replaced ({seconds:.0f} s), of {traffic.answers.total()}"
    return [Row.below("replicas", what, len(traffic.failures), 1, "requests")]


def address(running: Deployment, service: str) -> str:
    """A container's own, on the network that the balancer is on."""
    networks: dict[str, Any] = json.loads(docker("inspect", running.containers(service)[0]))[0]["NetworkSettings"]
    (name,) = [name for name in networks["Networks"] if name.endswith("_default")]
    return str(networks["Networks"][name]["IPAddress"])


def small_request(host: str, model: str) -> Request:
    """One for the whole of a model, as JSON."""
    body = json.dumps({"model": model, "w": {"x": random_w().tolist()}}).encode()
    return Request(REST, "/fabricate", body, host=host)


def post(running: Deployment, model: str) -> int:
    """The status of the same through the published port, without a second try."""
    request = small_request("", model)
    headers = {"content-type": request.content_type}
    return int(HTTP.request("POST", running.url + request.path, body=request.body, headers=headers).status)


def speed(received: Any) -> float:
    """Bytes per second of a download."""
    return float(received.size / received.seconds)


if __name__ == "__main__":
    print_table(run())
