"""Our fabric, which draws T as it goes, against the torch formula, which reads a stored T.

What a user of the formula would run is W = sigmoid((w P) Q^T) S T^T in torch with all factors in memory; its last step,
h T^T, is nearly all of its time. Ours draws every factor anew for each W, h included, in the tiles that the engine
makes, on as many threads as torch uses. torch writes into new memory, as the formula does, and once more into a warm
output, as ours does.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from typing import Any

import numpy as np
from common import Row, interleave, model_of, note, one_tensor, print_table, random_w, ratio, spread
from weightloom.engine.limits import EngineLimits, available_cores
from weightloom.fabric import DType, ModelSpec, VirtualFile

__all__ = ["fabricate", "run"]

SIDE = 4096
HIDDEN = 128
TILE = EngineLimits().tile
ROUNDS = {2: 21, 8: 11, 64: 5}
GOALS = {(2, "torch, last step"): 2.0}

_warm = threading.local()


def fabricate(model: ModelSpec, seed: int, pool: ThreadPoolExecutor, threads: int, dtype: DType = DType.F32) -> float:
    """Seconds to make every byte of the model's file for a new w, tile by tile into a warm buffer per thread."""
    began = time.perf_counter()
    file = VirtualFile(model, {"x": random_w(seed)}, dtype=dtype)
    tiles = iter(list(_tiles(file)))
    for worker in [pool.submit(_work, file, tiles) for _ in range(threads)]:
        worker.result()
    return time.perf_counter() - began


def _tiles(file: VirtualFile) -> Iterator[tuple[int, int]]:
    start = 0
    while start < file.size:
        end = file.next_cut(start, TILE)
        yield start, end
        start = end


def _work(file: VirtualFile, tiles: Iterator[tuple[int, int]]) -> None:
    if not hasattr(_warm, "buffer"):
        _warm.buffer = np.zeros(TILE.bytes, np.uint8)
    for start, end in tiles:
        file.read_into(start, _warm.buffer[: end - start])


def _torch_cases(r: int) -> dict[str, Callable[[], float]]:
    """The formula with stored factors: its last step alone, the same into a warm output, and all of it."""
    import torch

    P, Q, S = torch.randn(64, r), torch.randn(HIDDEN, r), torch.randn(HIDDEN, r)
    T, W = torch.empty(SIDE * SIDE, r).normal_(), torch.zeros(1, SIDE * SIDE)
    h, seeds = torch.randn(1, r), count()

    def whole() -> Any:
        w = torch.from_numpy(random_w(next(seeds)))[None]
        return torch.matmul(torch.matmul(torch.sigmoid(torch.matmul(torch.matmul(w, P), Q.T)), S), T.T)

    return {
        "torch, last step": lambda: _timed(lambda: torch.matmul(h, T.T)),
        "torch, last step, warm output": lambda: _timed(lambda: torch.matmul(h, T.T, out=W)),
        "torch, whole formula": lambda: _timed(whole),
    }


def _timed(function: Callable[[], Any]) -> float:
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


def _compare(r: int, pool: ThreadPoolExecutor, threads: int) -> list[Row]:
    import torch

    torch.set_num_threads(threads)
    model, seeds = model_of(one_tensor(SIDE, SIDE, r)), count()
    ours: dict[str, Callable[[], float]] = {"ours": lambda: fabricate(model, next(seeds), pool, threads)}
    seconds = interleave(ours | _torch_cases(r), ROUNDS[r], repeats=3 if r < 64 else 1)
    for name, values in seconds.items():
        note(f"r = {r}, {name}: {spread([SIDE * SIDE * 4 / s / 1e9 for s in values], 2)} GB/s")
    own = seconds.pop("ours")
    return [
        Row.at_least("fabric", f"r = {r}: ours / {name}", ratio(values, own), GOALS.get((r, name)))
        for name, values in seconds.items()
    ]


def run() -> list[Row]:
    """A row for each r and each way to run the formula."""
    threads = available_cores()
    note(f"{SIDE} x {SIDE} float32, {threads} threads; GB/s of W, median and range")
    with ThreadPoolExecutor(threads) as pool:
        return [row for r in ROUNDS for row in _compare(r, pool, threads)]


if __name__ == "__main__":
    print_table(run())
