"""Ours against what a user would write in an afternoon: FastAPI, torch, a stored T, one response (afternoon_app.py).

Its formula and shapes are ours, its factors are not the same numbers. It runs as a user would run it, under uvicorn
with one process and FastAPI's pool of threads, and torch takes all cores; it has drawn its T before the first request.
Ours runs twice: with default settings (T is kept from the second request on, so it is warm like the other's) and with a
virtual T. The same client asks all three, with 1 or 16 requests at once. First byte means tensor data, behind all
heads; the median over the streams. Memory is the peak of the whole process, torch and T included, since that is what it
costs to run.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from client import Request, client_process
from common import LENGTH, Row, interleave, note, one_tensor, print_table, random_w, ratio, spread
from load import drain
from memory import peak_of
from models import register, request_of
from servers import Server, uvicorn, weightloom

__all__ = ["run"]

SIDE, R, CLIENTS = 2048, 16, (1, 16)
ROUNDS = 11
OURS: dict[str, dict[str, object]] = {"ours": {}, "ours, virtual": {"RESIDENCY": "virtual"}}  # settings
THEIRS = "the afternoon's"


@dataclass
class Clients:
    """A case: bytes per second of some requests at once. It keeps the first bytes' times, in seconds."""

    call: Callable[..., Any]
    server: Server
    requests: list[Request]
    first: list[float] = field(default_factory=list)

    def __call__(self) -> float:
        drained = self.call(drain, self.requests)
        self.first.append(statistics.median(drained.first_data))
        return float(drained.per_second)

    def peak_mib(self) -> float:
        """The server's peak of memory while they are answered twice: from the second time on, ours may keep its T."""
        with peak_of(self.server) as peak:
            self()
            self()
            return peak()


def _servers(stack: ExitStack) -> dict[str, Server]:
    servers = {name: stack.enter_context(weightloom(settings)) for name, settings in OURS.items()}
    for server in servers.values():
        register(server, one_tensor(SIDE, SIDE, R))
    model = {"AFTERNOON_MODEL": " ".join(map(str, (SIDE, SIDE, LENGTH, R)))}
    servers[THEIRS] = stack.enter_context(uvicorn("afternoon_app:app", "/openapi.json", model))
    return servers


def _requests(name: str, server: Server, count: int) -> list[Request]:
    if name != THEIRS:
        return [request_of(server, "benchmark", seed) for seed in range(count)]
    bodies = [json.dumps({"w": random_w(seed).tolist()}).encode() for seed in range(count)]
    return [Request(server.port, "/fabricate", body) for body in bodies]


def _rows(count: int, cases: dict[str, Clients]) -> list[Row]:
    """Compare at so many requests at once; each case answers them twice before, which warms it."""
    peaks = {name: case.peak_mib() for name, case in cases.items()}
    rates = interleave(cases, ROUNDS)
    first = {name: case.first[-ROUNDS:] for name, case in cases.items()}
    for name, peak in peaks.items():
        speed, sooner = spread(rates[name], 2, 1e-9), spread(first[name], scale=1e3)
        note(f"{count} at once, {name}: {speed} GB/s; first byte {sooner} ms; peak {peak:.0f} MiB")
    rows = []
    for name in OURS:
        what = f"{count} at once, {name} / {THEIRS}"
        rows += [
            Row.at_least("afternoon", f"{what}: bytes/s", ratio(rates[name], rates[THEIRS])),
            Row.at_least("afternoon", f"{what}: sooner first byte", ratio(first[THEIRS], first[name])),
            Row("afternoon", f"{what}: peak memory", f"{peaks[name]:.0f} / {peaks[THEIRS]:.0f} MiB"),
        ]
    return rows


def run() -> list[Row]:
    """Rows for one client and for many."""
    note(f"{SIDE} x {SIDE} F32, r = {R}")
    with ExitStack() as stack:
        servers, call = _servers(stack), stack.enter_context(client_process())
        rows = []
        for count in CLIENTS:
            cases = {name: Clients(call, server, _requests(name, server, count)) for name, server in servers.items()}
            rows += _rows(count, cases)
    return rows


if __name__ == "__main__":
    print_table(run())
