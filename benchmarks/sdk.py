"""The Python client receiving into numpy, against ``curl -o /dev/null`` of the same stream, which keeps nothing, and
against the obvious five lines of httpx and safetensors; then what the import and the base install cost.

The server draws while it sends, on the same cores, so what counts is how much of its stream a client can use.
"""

from __future__ import annotations

import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import Distribution, distribution
from pathlib import Path
from typing import Any

from client import client_process
from common import Row, interleave, note, one_tensor, print_table, random_w, ratio, spread
from models import register
from servers import Server, weightloom

__all__ = ["run"]

SIDES = {"64 MiB": 4096, "1 GiB": 16384}
ROUNDS = {"64 MiB": 15, "1 GiB": 5}
GOAL, IMPORT_MS, INSTALL_MB = 0.7, 150.0, 60.0
OWN = ("service/weightloom", "clients/python/weightloom_client", "proto/weightloom_proto")
_clients: dict[tuple[str, str], Any] = {}  # in the client's process: connections are kept
_arrays: dict[int, Any] = {}


def by_sdk(url: str, verify: str, side: int) -> float:
    """Seconds for ``fabricate`` into numpy arrays."""
    from weightloom_client import Client

    client = _clients.setdefault((url, verify), Client(url, verify=verify))  # type: ignore[arg-type]
    began = time.perf_counter()
    weights = client.fabricate(f"sdk/{side}", {"x": random_w()})
    seconds = time.perf_counter() - began
    assert weights["x"].shape == (side, side)
    return seconds


def into_old(url: str, side: int) -> float:
    """Seconds for ``fabricate`` into the arrays of the call before."""
    from weightloom_client import Client

    client = _clients.setdefault((url, "sample"), Client(url))
    if side not in _arrays:
        _arrays.clear()
        _arrays[side] = client.fabricate(f"sdk/{side}", {"x": random_w()})
    began = time.perf_counter()
    client.fabricate(f"sdk/{side}", {"x": random_w()}, out=_arrays[side])
    return time.perf_counter() - began


def new_memory(side: int) -> float:
    """Seconds for as much memory to be there at all: what the system takes of ``by_sdk``."""
    import numpy as np

    began = time.perf_counter()
    np.empty((side, side), np.float32)[:, ::1024] = 0  # a number of each page
    return time.perf_counter() - began


def by_httpx(url: str, side: int) -> float:
    """Seconds for what one would write without the client."""
    import httpx
    import safetensors.numpy

    began = time.perf_counter()
    body = {"model": f"sdk/{side}", "w": {"x": random_w().tolist()}}
    reply = httpx.post(f"{url}/fabricate", json=body, timeout=60)
    reply.raise_for_status()
    weights = safetensors.numpy.load(reply.content)
    seconds = time.perf_counter() - began
    assert weights["x"].shape == (side, side)
    return seconds


def by_curl(url: str, side: int) -> float:
    """Seconds as curl tells them, without the start of its process."""
    body = json.dumps({"model": f"sdk/{side}", "w": {"x": random_w().tolist()}})
    command = ["curl", "-s", "--fail", "-o", "/dev/null", "-w", "%{time_total}", "--json", body, f"{url}/fabricate"]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def _transfers(server: Server, call: Callable[..., Any], size: str, side: int) -> list[Row]:
    url = f"http://127.0.0.1:{server.port}"
    register(server, one_tensor(side, side, 2, name=f"sdk/{side}"))
    curl = partial(by_curl, url, side)
    # First alone: memory that comes and goes disturbs what runs beside it.
    there = _timed(size, {"SDK, out=": lambda: call(into_old, url, side), "curl": curl})
    new = _timed(
        size,
        {
            "SDK, verify off": lambda: call(by_sdk, url, "off", side),
            "SDK, verify sample": lambda: call(by_sdk, url, "sample", side),
            "new memory alone": lambda: call(new_memory, side),
            "httpx + safetensors": lambda: call(by_httpx, url, side),
            "curl": curl,
        },
    )
    own, obvious = new["SDK, verify sample"], new["httpx + safetensors"]
    both = [a + b for a, b in zip(new["curl"], new["new memory alone"], strict=True)]
    results = {
        "into arrays that are there: SDK / curl": (ratio(there["curl"], there["SDK, out="]), GOAL),
        "into new arrays: SDK / curl": (ratio(new["curl"], own), GOAL),
        "into new arrays: SDK / curl + new memory alone": (ratio(both, own), None),
        "into new arrays: SDK / httpx + safetensors": (ratio(obvious, own), None),
    }
    return [Row.at_least("sdk", f"{size} {what}", times, goal) for what, (times, goal) in results.items()]


def _timed(size: str, cases: dict[str, Callable[[], float]]) -> dict[str, list[float]]:
    seconds = interleave(cases, ROUNDS[size])
    for name, values in seconds.items():
        note(f"{size}, {name}: {spread(values, scale=1e3)} ms")
    return seconds


def import_milliseconds() -> float:
    """What ``import weightloom_client`` adds to the start of Python; a note says how much of it is numpy."""

    def start(program: str) -> float:
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", program], check=True, cwd=tempfile.gettempdir())
        return time.perf_counter() - began

    programs = {"client": "import weightloom_client", "numpy": "import numpy", "nothing": "pass"}
    seconds = interleave({name: partial(start, program) for name, program in programs.items()}, 9)
    client, numpy = (
        statistics.median(a - b for a, b in zip(seconds[name], seconds["nothing"], strict=True)) * 1e3
        for name in ("client", "numpy")
    )
    note(f"import numpy alone: {numpy:.0f} ms")
    return client


def installed_megabytes() -> dict[str, float]:
    """By package, all that the base install brings: files as they lie on disk, compiled caches aside."""
    root = Path(__file__).resolve().parents[1]
    own = sum(
        file.stat().st_size for part in OWN for file in (root / part).rglob("*") if "__pycache__" not in file.parts
    )
    return {"weightloom": own / 1e6} | {found.name: _size(found) / 1e6 for found in _required("weightloom", set())}


def _required(name: str, seen: set[str]) -> Iterator[Distribution]:
    """What a package needs without extras, and what that needs."""
    for requirement in distribution(name).requires or ():
        needed = re.split(r"[^\w.-]", requirement)[0].lower()
        if "extra ==" not in requirement and "python_version <" not in requirement and needed not in seen:
            seen.add(needed)
            if "platform_system ==" not in requirement and "sys_platform ==" not in requirement:
                yield distribution(needed)
                yield from _required(needed, seen)


def _size(found: Distribution) -> int:
    files = (Path(str(found.locate_file(file))) for file in found.files or ())
    return sum(file.stat().st_size for file in files if file.is_file() and file.suffix != ".pyc")


def run() -> list[Row]:
    """Rows for both sizes, the import and the install."""
    rows: list[Row] = []
    with weightloom({"RESIDENCY": "virtual"}) as server, client_process() as call:
        for size, side in SIDES.items():
            rows += _transfers(server, call, size, side)
    sizes = installed_megabytes()
    note("base install, MB: " + ", ".join(f"{name} {size:.1f}" for name, size in sorted(sizes.items())))
    rows.append(Row.below("sdk", "import weightloom_client", import_milliseconds(), IMPORT_MS, "ms"))
    rows.append(Row.below("sdk", "base install with numpy", sum(sizes.values()), INSTALL_MB, "MB"))
    return rows


if __name__ == "__main__":
    print_table(run())
