"""Requests per second for a 64 x 64 tensor of a registered model, against a bare echo application under uvicorn.

The echo reads the same POST and answers a ready 16 KiB body, so the ratio is the share of the bare server's speed that
is left with parsing, validation, look-up and fabrication. 16 connections are kept alive by a client in Python that
speaks raw HTTP in a process of its own; how busy that client is tells whether it is the limit (1.0: it is).
(This file is not called requests.py, which would hide the package of that name.)
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from client import Request, client_process
from common import Row, interleave, note, one_tensor, print_table, random_w, ratio, spread
from load import hammer
from models import register
from servers import Server, bare_uvicorn, weightloom
from weightloom.fabric import safetensors

__all__ = ["run"]

SPEC = one_tensor(64, 64, 2, name="small")
CONNECTIONS, SECONDS, ROUNDS = 16, 1.0, 7


@dataclass
class Hammering:
    """A case: requests per second; it keeps how busy the client was."""

    call: Callable[..., Any]
    request: Request
    busy: list[float] = field(default_factory=list)

    def __call__(self) -> float:
        load = self.call(hammer, self.request, CONNECTIONS, SECONDS)
        self.busy.append(load.client_busy)
        return float(load.per_second)


def _bodies() -> dict[str, tuple[str, bytes, str]]:
    """By format: path, body and content type of the request."""
    w = random_w()
    as_json = json.dumps({"model": "small", "w": {"x": w.tolist()}}).encode()
    as_file = safetensors.build_header({}, [("x", "F32", w.shape, w.nbytes)]) + w.tobytes()
    return {
        "JSON": ("/fabricate", as_json, "application/json"),
        "safetensors": ("/fabricate?model=small", as_file, "application/octet-stream"),
    }


def _measure(ours: Server, echo: Server, call: Callable[..., Any]) -> dict[str, list[float]]:
    """Requests per second in each round, by server and format."""
    cases = {
        f"{name}, {format_} request": Hammering(call, Request(server.port, *body))
        for name, server in (("ours", ours), ("echo", echo))
        for format_, body in _bodies().items()
    }
    rates = interleave(cases, ROUNDS)
    for name, values in rates.items():
        note(f"{name}: {spread(values, 0)} requests/s; client busy {spread(cases[name].busy, 2)}")
    return rates


def run() -> list[Row]:
    """A row for each format of the request's body."""
    note(f"{CONNECTIONS} connections kept alive by a client in Python (raw sockets, epoll)")
    with weightloom() as ours, bare_uvicorn("echo", 1 << 14) as echo, client_process() as call:
        register(ours, SPEC)
        rates = _measure(ours, echo, call)
    return [
        Row.at_least(
            "small_requests",
            f"64 x 64, {format_} request: ours / echo",
            ratio(rates[f"ours, {format_} request"], rates[f"echo, {format_} request"]),
        )
        for format_ in _bodies()
    ]


if __name__ == "__main__":
    print_table(run())
