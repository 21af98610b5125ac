"""Requests per second for a 64 x 64 tensor of a registered model, by front, against a bare echo under uvicorn.

The echo reads the same POST and answers a ready 16 KiB body, so the ratio is the share of the bare server's speed that
is left with parsing, validation, look-up and fabrication. 16 requests are always under way, on as many connections kept
alive, or as calls on one gRPC channel. The client is Python in a process of its own: raw sockets for REST, grpcio's
asyncio client without parsing for gRPC. How busy client and server are (1.0: one core) tells which is the limit, or
whether it is the machine: two workers, for one, can gain only what cores the client leaves them.
(This file is not called requests.py, which would hide the package of that name.)
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from client import client_process
from common import Row, interleave, note, one_tensor, print_table, ratio, spread
from grpc_client import grpc_hammer, grpc_message
from load import hammer
from models import raw_request_of, register, request_of
from servers import Server, bare_uvicorn, weightloom

__all__ = ["run"]

SPEC = one_tensor(64, 64, 2, name="small")
CALLS, SECONDS, ROUNDS = 16, 0.8, 7
PAIRS = {
    "REST JSON / echo": ("REST JSON", "echo, JSON", None),
    "REST safetensors / echo": ("REST safetensors", "echo, safetensors", 0.5),
    "gRPC / echo": ("gRPC", "echo, safetensors", None),
    "REST safetensors, two workers / one": ("REST safetensors, two workers", "REST safetensors", None),
}


@dataclass
class Hammering:
    """A case: requests per second; it keeps how busy the client and the server were."""

    call: Callable[..., Any]
    server: Server
    client: Callable[..., Any]
    arguments: tuple[Any, ...]
    busy: list[tuple[float, float]] = field(default_factory=list)

    def __call__(self) -> float:
        began, cpu = time.perf_counter(), sum(self.server.cpu_seconds)
        load = self.call(self.client, *self.arguments, CALLS, SECONDS)
        server_busy = (sum(self.server.cpu_seconds) - cpu) / (time.perf_counter() - began)
        self.busy.append((load.client_busy, server_busy))
        return float(load.per_second)

    def note(self, name: str, rates: list[float]) -> None:
        """One line."""
        client, server = (spread(column, 2) for column in zip(*self.busy, strict=True))
        note(f"{name}: {spread(rates, 0)} requests/s; client busy {client}, server {server}")


def _cases(call: Callable[..., Any], one: Server, two: Server, echo: Server) -> dict[str, Hammering]:
    json_, raw = request_of(one, "small"), raw_request_of(one, "small")
    return {
        "REST JSON": Hammering(call, one, hammer, (json_,)),
        "REST safetensors": Hammering(call, one, hammer, (raw,)),
        "gRPC": Hammering(call, one, grpc_hammer, (one.grpc_port, grpc_message("small"))),
        "REST safetensors, two workers": Hammering(call, two, hammer, (replace(raw, port=two.port),)),
        "echo, JSON": Hammering(call, echo, hammer, (replace(json_, port=echo.port),)),
        "echo, safetensors": Hammering(call, echo, hammer, (replace(raw, port=echo.port),)),
    }


def _measure(one: Server, two: Server, echo: Server) -> dict[str, list[float]]:
    """Requests per second in each round, by case."""
    for server in (one, two):
        register(server, SPEC)
    with client_process() as call:
        cases = _cases(call, one, two, echo)
        rates = interleave(cases, ROUNDS)
    for name, case in cases.items():
        case.note(name, rates[name])
    return rates


def run() -> list[Row]:
    """A row for each front and form of w, and one for two workers."""
    note(f"{CALLS} requests at a time from one client process")
    with weightloom() as one, weightloom({"WORKERS": 2}) as two, bare_uvicorn("echo", 1 << 14) as echo:
        rates = _measure(one, two, echo)
    return [
        Row.at_least("small_requests", f"64 x 64, {what}", ratio(rates[ours], rates[other]), goal)
        for what, (ours, other, goal) in PAIRS.items()
    ]


if __name__ == "__main__":
    print_table(run())
