"""Our REST stream of a 64 MiB body, fabricated while it is sent, against nginx sending the very same bytes.

nginx reads them from the page cache with sendfile: it computes nothing, so it is what a server of stored weights could
do at best. A bare uvicorn application with a ready body is the bound for a server like ours. The same fast client
receives all of them: a plain loop of recv, as clients are. (It bounds nginx: told by SO_RCVLOWAT to sleep until 256 KiB
are there, it gets 64 MiB from nginx in a third of the time, with stalls now and then; ours gains a tenth.)

The CPU time per body says where the time goes: all processes share the machine's cores, so no stream can take less
time than their sum divided by the cores.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from client import Request, client_process, download, fetch
from common import Row, interleave, model_of, note, one_tensor, print_table, random_w, ratio, spread
from fabric import fabricate
from servers import NO_NGINX, Server, bare_uvicorn, nginx, nginx_program, weightloom
from weightloom.engine.limits import available_cores
from weightloom.fabric import DType

__all__ = ["run"]

SPEC = one_tensor(4096, 4096, 2)
ROUNDS, REPEATS = 15, 3
GOALS = {("F32", "nginx"): 0.8}


@dataclass
class Stream:
    """A case: one download. It adds up the CPU time that server and client take for it."""

    call: Callable[..., Any]
    server: Server
    request: Request
    cpu: list[tuple[float, float, float]] = field(default_factory=list)

    def __call__(self) -> float:
        user, system = self.server.cpu_seconds
        done = self.call(download, self.request)
        user_after, system_after = self.server.cpu_seconds
        self.cpu.append((user_after - user, system_after - system, done.cpu_seconds))
        return float(done.seconds)

    def where_the_time_goes(self) -> str:
        """Mean CPU time per body."""
        user, system, client = (statistics.mean(column) * 1e3 for column in zip(*self.cpu, strict=True))
        floor = (user + system + client) / available_cores()
        return f"server {user:.1f} user + {system:.1f} system, client {client:.1f}; together no faster than {floor:.1f}"


def _request(port: int, dtype: str) -> Request:
    w = {"x": random_w().tolist()}
    return Request(port, "/fabricate", json.dumps(SPEC | {"w": w, "dtype": dtype}).encode())


def _streams(dtype: str, ours: Server, call: Callable[..., Any], stack: ExitStack) -> dict[str, Stream]:
    request = _request(ours.port, dtype)
    body = fetch(request)
    streams = {"ours": Stream(call, ours, request)}
    ready = stack.enter_context(bare_uvicorn("ready", len(body)))
    streams["ready body, uvicorn"] = Stream(call, ready, Request(ready.port, "/"))
    if nginx_program():
        server = stack.enter_context(nginx({"body": body}))
        streams["nginx"] = Stream(call, server, Request(server.port, "/body"))
    return streams


def _fabric_case(dtype: str, pool: ThreadPoolExecutor) -> Callable[[], float]:
    model, seeds = model_of(SPEC), count()
    return lambda: fabricate(model, next(seeds), pool, available_cores(), DType(dtype))


def _compare(dtype: str, ours: Server, call: Callable[..., Any]) -> list[Row]:
    with ExitStack() as stack:
        streams = _streams(dtype, ours, call, stack)
        pool = stack.enter_context(ThreadPoolExecutor(available_cores()))
        seconds = interleave(streams | {"fabric alone": _fabric_case(dtype, pool)}, ROUNDS, REPEATS)
    for name, values in seconds.items():
        cpu = f"; CPU ms per body: {streams[name].where_the_time_goes()}" if name in streams else ""
        note(f"{dtype}, {name}: {spread(values, scale=1e3)} ms{cpu}")
    own = seconds.pop("ours")
    return [
        Row.at_least("rest_stream", f"{dtype}: ours / {name}", ratio(values, own), GOALS.get((dtype, name)))
        for name, values in seconds.items()
    ]


def run() -> list[Row]:
    """Rows for a float32 and a bfloat16 body."""
    note(f"one body of 4096 x 4096, r = 2, virtual T; {available_cores()} cores for server and client together")
    if not nginx_program():
        note(NO_NGINX)
    with weightloom({"RESIDENCY": "virtual"}) as ours, client_process() as call:
        return [row for dtype in ("F32", "BF16") for row in _compare(dtype, ours, call)]


if __name__ == "__main__":
    print_table(run())
