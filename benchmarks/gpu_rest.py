"""A whole server on the GPU and one on the processor, read over REST by a client that throws the bytes away.

Both run on this machine; the client is a process of raw sockets (client.py). Beside them stands the rate at which the
same client reads bytes that lie ready in the memory of a sender: no server can be faster over loopback.
"""

from __future__ import annotations

import os
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from client import Request, client_process, download
from common import note, one_tensor
from gpu_clock import Plan, free_bytes, release
from gpu_table import Line
from models import register, request_of, warm
from servers import SERVE, Server, weightloom

__all__ = ["run"]

ROUNDS = 3
READY = bytearray(1 << 20)
NEAR = 0.8  # of a bound's rate: then it is what limits
HOST_BUDGET = 6 << 30  # bytes for T's


def run(plan: Plan, device_rates: dict[int, float]) -> list[Line]:
    """Lines for loopback, then by device, r and residency. device_rates: GB/s of the device level alone, by r."""
    release()
    if missing := missing_package():
        return [Line("REST", "the whole part", f"left out: {missing}")]
    with client_process() as call:
        bytes_ready = 4 * plan.stream**2
        with sender(bytes_ready) as port:
            loopback = _measure(call, lambda: Request(port, "/"))
        lines = [Line("REST", f"loopback alone, {bytes_ready >> 20} MiB", ms=loopback[1], rate=loopback[0])]
        for name, rates in {"cuda": device_rates, "cpu": {}}.items():
            lines += _lines_of(name, call, plan, loopback[0], rates)
    return lines


def missing_package() -> str:
    """What the server lacks to be imported; empty where it has all."""
    program = SERVE.partition("; serve(")[0]
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    return told.stderr.strip().rpartition("\n")[2] if told.returncode else ""


@contextmanager
def sender(size: int) -> Iterator[int]:
    """The port of a thread that answers each connection with ``size`` bytes that lie ready."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=_send, args=(listener, size), daemon=True).start()
        yield int(listener.getsockname()[1])


def _send(listener: socket.socket, size: int) -> None:
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        with connection:
            connection.recv(1 << 16)
            connection.sendall(f"HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n".encode())
            for start in range(0, size, len(READY)):
                connection.sendall(memoryview(READY)[: size - start])


def _measure(call: Callable[..., Any], request: Callable[[], Request]) -> tuple[float, float]:
    """GB/s and milliseconds: the median of ``ROUNDS`` downloads after one more."""
    downloads = [call(download, request()) for _ in range(1 + ROUNDS)][1:]
    seconds = statistics.median(done.seconds for done in downloads)
    return downloads[0].size / seconds / 1e9, 1e3 * seconds


def _lines_of(
    device: str, call: Callable[..., Any], plan: Plan, loopback: float, device_rates: dict[int, float]
) -> list[Line]:
    settings = {"DEVICE": device, "RESIDENCY": "virtual", "FACTOR_BYTES": HOST_BUDGET}
    began, lines = time.perf_counter(), []
    with weightloom(settings) as server:
        note(f"REST, {device}: the server started in {time.perf_counter() - began:.1f} s")
        for r in plan.streamed:
            for residency in ("virtual", "resident"):
                side = _side(device, r, residency, plan.stream)
                rate, ms, cores = _stream(server, call, side, r, residency)
                what = f"{device}, {residency}, r = {r}, {4 * side**2 >> 20} MiB F32"
                bounds = {"loopback": loopback} | ({"the device": device_rates[r]} if r in device_rates else {})
                lines.append(Line("REST", what, limit(rate, bounds, cores), ms=ms, rate=rate))
                note(f"{what}: {rate:.3g} GB/s")
    return lines


def _side(device: str, r: int, residency: str, side: int) -> int:
    """Of W: as wanted, or less, so that a resident T takes a third of the GPU's memory at most; the server has half."""
    budget = HOST_BUDGET if device == "cpu" else free_bytes() / 3
    while residency == "resident" and 4 * r * side**2 > budget:
        side //= 2
    return side


def _stream(server: Server, call: Callable[..., Any], side: int, r: int, residency: str) -> tuple[float, float, float]:
    """GB/s, milliseconds, and the cores that the server uses for it."""
    name = f"{residency}/{r}"
    register(server, one_tensor(side, side, r, seed=r + (residency == "resident"), name=name))
    if residency == "resident":
        warm(server, name)
    seeds = iter(range(1, 100))
    began, cpu = time.perf_counter(), sum(server.cpu_seconds)
    rate, ms = _measure(call, lambda: request_of(server, name, next(seeds)))
    return rate, ms, (sum(server.cpu_seconds) - cpu) / (time.perf_counter() - began)


def limit(rate: float, bounds: dict[str, float], cores: float) -> str:
    """What is near to be the limit, and how near each bound is."""
    shares = {name: rate / bound for name, bound in bounds.items()}
    near = [name for name, share in shares.items() if share >= NEAR]
    near += ["all cores"] if cores >= NEAR * (os.cpu_count() or 1) else []
    told = ", ".join(f"{share:.0%} of {name}" for name, share in shares.items())
    return f"limit: {' and '.join(near) or 'the server'} ({told}; the server keeps {cores:.1f} cores busy)"
