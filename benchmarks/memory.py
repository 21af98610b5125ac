"""The server's memory while it streams 4 GiB, over what it has when idle.

A stream's memory is bound by its window of tiles, whatever its length and whoever reads it: a fast client that takes
4 GiB as they come, and a slow one that takes a MiB now and then and hangs up after five seconds. Each gets a new
server, idle until then. The peak is the kernel's own (VmHWM), begun anew before the stream; where the kernel does not
permit that, the memory is sampled.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from client import Request, client_process, download, read_slowly
from common import Row, note, one_tensor, print_table, random_w
from servers import Server, weightloom

__all__ = ["peak_of", "run"]

SIDE, R = 32768, 2  # 4 GiB of float32
LIMIT_MIB = 64
SLOW_SECONDS = 5.0
INTERVAL = 0.02


@contextmanager
def peak_of(server: Server) -> Iterator[Callable[[], float]]:
    """Gives a function that returns the peak since entering, in MiB."""
    try:
        server.reset_peak()
    except OSError:
        with _sampled(server) as peak:
            yield peak
    else:
        yield lambda: server.memory_mib("VmHWM")


@contextmanager
def _sampled(server: Server) -> Iterator[Callable[[], float]]:
    note("this kernel does not let the peak begin anew, so memory is sampled every 20 ms")
    samples, done = [server.memory_mib()], threading.Event()

    def sample() -> None:
        while not done.wait(INTERVAL):
            samples.append(server.memory_mib())

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield lambda: max(samples)
    finally:
        done.set()
        thread.join()


def _measure(name: str, read: Callable[[Callable[..., Any], Request], int]) -> Row:
    body = json.dumps(one_tensor(SIDE, SIDE, R) | {"w": {"x": random_w().tolist()}}).encode()
    with weightloom() as server, client_process() as call:
        idle = server.memory_mib()
        with peak_of(server) as peak:
            size = read(call, Request(server.port, "/fabricate", body))
            over = peak() - idle
        after = server.memory_mib()
    note(f"{name}: {size / 2**30:.2f} GiB read; idle {idle:.1f}, peak {idle + over:.1f}, after it {after:.1f} MiB")
    return Row.below("memory", f"{SIDE} x {SIDE} F32, {name}: peak over idle", over, LIMIT_MIB, "MiB")


def run() -> list[Row]:
    """A row for a fast and a slow reader."""
    return [
        _measure("fast reader", lambda call, request: int(call(download, request).size)),
        _measure("slow reader", lambda call, request: int(call(read_slowly, request, SLOW_SECONDS))),
    ]


if __name__ == "__main__":
    print_table(run())
