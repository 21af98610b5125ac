"""What a server's memory grows by, and its registry: by settings and specs what it should be, and what it is.

Streams: readers that take nothing hold their whole windows, and what the transport has taken; fitted on few, checked on
more. T's: r × W in float32. Registered models: rows on disk, and little in memory. Models in use: each process keeps
specs, layouts, plans and P, Q, S of what it served lately, within budgets; fitted on the first models asked for.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from client import MEMORY, Request, answer_size, connect, receive
from common import LENGTH, one_tensor, random_w
from models import register, warm
from servers import Server, weightloom
from weightloom.fabric import ModelSpec

__all__ = ["print_memory"]

FEW, MORE, MANY = 8, 24, 48  # readers that take nothing
MODELS, TENSORS, USED = 10_000, 8, 1000
ROW_BYTES = 300  # of a model in SQLite besides its JSON: name twice, digest twice, counts, time
MIB = 1 << 20


def print_memory() -> None:
    """One table."""
    print("\n| memory | predicted | measured | predicted / measured |\n|---|---|---|---|")
    few, more, many = map(_stalled, (FEW, MORE, MANY))
    each = (more - few) / (MORE - FEW)
    _row(f"{MANY} readers that take nothing, MiB: {each:.1f} for each", few + (MANY - FEW) * each, many)
    for side, r in ((1024, 16), (2048, 8)):
        _row(f"T of {side} × {side}, r = {r}, MiB", side * side * r * 4 / MIB, _resident(side, r))
    _print_models()


def _row(what: str, predicted: float, measured: float) -> None:
    print(f"| {what} | {predicted:.3g} | {measured:.3g} | {predicted / measured:.2f} |")


def _stalled(streams: int) -> float:
    body = json.dumps(one_tensor(4096, 4096, 2) | {"w": {"x": random_w().tolist()}}).encode()
    with weightloom({"RESIDENCY": "virtual"}) as server, ExitStack() as stack:
        idle = server.memory_mib()
        request = Request(server.port, "/fabricate", body)
        for _ in range(streams):
            stack.enter_context(connect(request)).sendall(request.bytes)
        time.sleep(2)
        return server.memory_mib() - idle


def _resident(side: int, r: int) -> float:
    with weightloom({"FACTOR_BYTES": 1 << 30}) as server:
        idle = server.memory_mib()
        register(server, one_tensor(side, side, r))
        warm(server, "benchmark")
        return server.memory_mib() - idle


def _spec(number: int) -> dict[str, Any]:
    tensors = [{"name": f"layers.{n}.weight", "shape": [768, 768], "l": LENGTH} for n in range(TENSORS)]
    return {"name": f"tenants/{number:06d}/model", "seed": number, "tensors": tensors}


@contextmanager
def _asking(server: Server) -> Iterator[Any]:
    """A function that sends a request on one connection kept alive, and reads the answer."""
    with connect(Request(server.port, "/fabricate", b"")) as sock:

        def ask(path: str, body: bytes) -> None:
            sock.sendall(Request(server.port, path, body).bytes)
            got = receive(sock)
            missing = answer_size(bytes(MEMORY[:got]).replace(b" 201 ", b" 200 ", 1), got) - got
            while missing:
                missing -= receive(sock)

        yield ask


def _print_models() -> None:
    with TemporaryDirectory() as folder, weightloom({"DATA_DIR": folder}) as server, _asking(server) as ask:
        idle = server.memory_mib()
        began = time.perf_counter()
        grown = []
        for number in range(MODELS):
            ask("/v1/models", json.dumps(_spec(number)).encode())
            if number % (MODELS // 4) == 0:
                grown.append(server.memory_mib() - idle)
        seconds = time.perf_counter() - began
        grown.append(server.memory_mib() - idle)
        disk = sum(path.stat().st_size for path in Path(folder).glob("registry.sqlite3"))
        canonical = len(ModelSpec.model_validate(_spec(0)).canonical)
        _row(f"a registered model of {TENSORS} tensors, KB on disk", (canonical + ROW_BYTES) / 1e3, disk / MODELS / 1e3)
        first, second = (_used(server, ask, start) for start in (0, USED))
        _row(f"{USED} more models in use, MiB (as the first {USED})", first, second)
        _used(server, ask, 2 * USED, MODELS - 2 * USED)
        print(f"\n{MODELS} models registered at {MODELS / seconds:.0f} a second; memory over idle after each quarter:")
        print(", ".join(f"{mib:.1f}" for mib in grown), "MiB")
        print(f"all of them asked for: {server.memory_mib() - idle:.0f} MiB more than idle")


def _used(server: Server, ask: Any, start: int, count: int = USED) -> float:
    """What a server's memory grows by when it makes a row of each of so many models."""
    before, w = server.memory_mib(), {"layers.0.weight": random_w().tolist()}
    for number in range(start, start + count):
        wanted = {"tensors": ["layers.0.weight"], "rows": {"layers.0.weight": [0, 1]}}
        ask("/fabricate", json.dumps({"model": _spec(number)["name"], "w": w} | wanted).encode())
    return server.memory_mib() - before
