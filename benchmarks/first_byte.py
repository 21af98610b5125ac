"""Time to the first byte of a tensor that nobody has seen, against the time torch.randn takes to draw its T.

A server of the formula with stored factors must draw T (numel x r numbers) before it can send anything of a new seed.
Ours draws no more than the first tile. Here T has 2^30 numbers, 4 GiB; torch draws it in eighths, to limit memory.
Each of our requests has a new seed; its time runs from connecting to the first byte behind the safetensors header.
"""

from __future__ import annotations

import json
import statistics
import time
from itertools import count

from client import Request, client_process, first_data
from common import Row, interleave, note, one_tensor, print_table, random_w, ratio, spread
from servers import weightloom

__all__ = ["run"]

SIDE, R, PARTS, ROUNDS, REQUESTS = 4096, 64, 8, 3, 15
PAUSE = 0.05  # seconds in which the server finishes the tiles that it was at when the client before hung up
GOAL = 100


def _draw_t() -> float:
    import torch

    began = time.perf_counter()
    for _ in range(PARTS):
        torch.randn(SIDE * SIDE * R // PARTS)
    return time.perf_counter() - began


def run() -> list[Row]:
    """One row: how many times sooner."""
    seeds = count(1)
    with weightloom() as server, client_process() as call:

        def once() -> float:
            time.sleep(PAUSE)
            spec = one_tensor(SIDE, SIDE, R, seed=next(seeds)) | {"w": {"x": random_w().tolist()}}
            return float(call(first_data, Request(server.port, "/fabricate", json.dumps(spec).encode())))

        def ours() -> float:
            return statistics.median(once() for _ in range(REQUESTS))

        seconds = interleave({"ours": ours, "torch": _draw_t}, ROUNDS)
    note(f"first byte of data: {spread(seconds['ours'], 2, 1e3)} ms; torch.randn of T: {spread(seconds['torch'], 2)} s")
    what = f"{SIDE} x {SIDE}, r = {R}, new seed: torch.randn of T / our first byte"
    return [Row.at_least("first_byte", what, ratio(seconds["torch"], seconds["ours"]), GOAL)]


if __name__ == "__main__":
    print_table(run())
