"""What benchmarks ask of our server beside the tensors: models, what is kept of them, and counters."""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Mapping
from typing import Any

from client import Request
from common import random_w
from servers import Server
from weightloom.fabric import safetensors

__all__ = ["counter", "raw_request_of", "register", "request_of", "warm"]

WARM_SECONDS = 120


def register(server: Server, spec: dict[str, Any]) -> None:
    """Register a model by its JSON spec."""
    _call(server, "POST", "/v1/models", spec)


def warm(server: Server, name: str) -> int:
    """Make a model resident, and wait until all of its T is there. Returns T's bytes."""
    _call(server, "PUT", f"/v1/models/{name}/residency", {"residency": "resident"})
    end = time.monotonic() + WARM_SECONDS
    while (model := _call(server, "GET", f"/v1/models/{name}"))["resident_bytes"] < model["t_bytes"]:
        if time.monotonic() > end:
            raise TimeoutError(f"{model['resident_bytes']} of {model['t_bytes']} bytes of T after {WARM_SECONDS} s")
        time.sleep(0.05)
    return int(model["t_bytes"])


def request_of(server: Server, name: str, seed: int = 0) -> Request:
    """A request for the whole of a registered model of ``one_tensor``; another seed is another w."""
    body = {"model": name, "w": {"x": random_w(seed).tolist()}}
    return Request(server.port, "/fabricate", json.dumps(body).encode())


def raw_request_of(server: Server, name: str, seed: int = 0) -> Request:
    """The same with w as a safetensors body, the fastest form."""
    w = random_w(seed)
    body = safetensors.build_header({}, [("x", "F32", w.shape, w.nbytes)]) + w.tobytes()
    return Request(server.port, f"/fabricate?model={name}", body, "application/octet-stream")


def counter(server: Server, name: str) -> float:
    """A number without labels from /metrics."""
    with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/metrics") as reply:
        lines = reply.read().decode().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(f"{name} "))


def _call(server: Server, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
    data = None if body is None else json.dumps(body).encode()
    url, headers = f"http://127.0.0.1:{server.port}{path}", {"Content-Type": "application/json"}
    with urllib.request.urlopen(urllib.request.Request(url, data, headers, method=method)) as reply:
        result: dict[str, Any] = json.load(reply)
    return result
