"""The device as the engine uses it: ``Cuda.weave`` into pinned tiles of the host, from 1 ... 16 worker threads.

Its bound is the copy of as many bytes to pinned memory (``gpu_floors``), or the kernels alone where they take longer.
"""

from __future__ import annotations

import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from common import note
from gpu_checks import CheckFailed, piece
from gpu_clock import POISONS, Plan, release
from gpu_floors import Case, Machine
from gpu_table import Line
from weightloom.fabric import DType, load_backend
from weightloom.fabric import kernels_cuda as kernels
from weightloom.fabric.factors import Factors
from weightloom.fabric.gpu.device import Cuda
from weightloom.fabric.passes import Piece

__all__ = ["best_rates", "run"]

ROUNDS = 3
BLOCKS = 4  # of each thread, which take turns


class Worker:
    """One thread's pinned blocks; it makes every ``step``-th tile from tile ``first`` on."""

    def __init__(self, device: Cuda, factors: Factors, kept: Any) -> None:
        self._device, self._factors, self._kept = device, factors, kept
        self._blocks = [device.host_block(device.tile.bytes) for _ in range(BLOCKS)]
        self._count = device.tile.bytes // 4

    def run(self, tiles: range) -> None:
        """Make them, each for an h of its own."""
        random = np.random.default_rng(tiles.start)
        for turn, tile in enumerate(tiles):
            self.make(tile, random.standard_normal((1, self._factors.r), np.float32), self._blocks[turn % BLOCKS])

    def make(self, tile: int, h: Any, block: Any) -> Any:
        """One tile, as float32 (1, count)."""
        out = block.view(np.float32)[None]
        self._device.weave(
            self._factors,
            h,
            [Piece(None, 0, tile * self._count, DType.F32, out)],  # type: ignore[arg-type]
            self._kept,
        )
        return out

    def check(self, tile: int) -> None:
        """Raise CheckFailed where a poisoned block does not become the processor's tile."""
        self._blocks[0].fill(POISONS[0])
        h = np.random.default_rng(tile).standard_normal((1, self._factors.r), np.float32)
        expected = piece(tile * self._count, DType.F32, 1, self._count)
        load_backend().weave(self._factors, h, [expected], None)
        if self.make(tile, h, self._blocks[0]).tobytes() != expected.out.tobytes():
            raise CheckFailed(f"tile {tile} of r = {self._factors.r}")


def run(plan: Plan, machine: Machine) -> list[Line]:
    """A line for each form, r and number of threads. Raises CheckFailed."""
    device = Cuda(["cuda:0"], load_backend(), 1 << 34, least_normals=0)
    if kernels.INTERPRETED:
        device.tile = device.tile._replace(bytes=1 << 14)
    lines = []
    for form, rs in {"virtual": plan.streamed, "kept": plan.streamed[:1]}.items():
        for r in rs:
            lines += _lines(device, form, r, plan, machine)
    release()
    return lines


def best_rates(lines: list[Line], plan: Plan) -> dict[int, float]:
    """The best GB/s of W by r, of virtual T's."""
    by_r = {r: [line.rate or 0.0 for line in lines if f"virtual, r = {r}, into" in line.what] for r in plan.streamed}
    return {r: max(rates) for r, rates in by_r.items()}


def _lines(device: Cuda, form: str, r: int, plan: Plan, machine: Machine) -> list[Line]:
    factors = Factors(1, "benchmark", 4, r, 8, plan.tiles * device.tile.bytes // 4)
    kept = device.memories[1].new_t(factors) if form == "kept" else None
    workers = [Worker(device, factors, kept) for _ in range(plan.threads[-1])]
    workers[0].check(plan.tiles - 1)
    workers[0].run(range(plan.tiles))  # which also fills what is kept
    size = plan.tiles * device.tile.bytes
    copy, making, lines = 1e3 * size / machine.to_host, machine.floor(Case(form, r), size // 4).ms, list[Line]()
    for threads in plan.threads:
        ms = 1e3 * statistics.median(_seconds(workers[:threads], plan.tiles) for _ in range(ROUNDS))
        what = f"{form}, r = {r}, into pinned tiles of {device.tile.bytes >> 10} KiB, threads: {threads}"
        remark = f"floor: {'the copy to the host' if copy >= making else 'the kernel'}"
        lines.append(Line("device", what, remark, max(copy, making), ms, size / ms / 1e6))
        note(f"{what}: {size / ms / 1e6:.3g} GB/s")
    return lines


def _seconds(workers: list[Worker], tiles: int) -> float:
    """All tiles, shared out to the workers."""
    step = len(workers)
    with ThreadPoolExecutor(step) as pool:
        began = time.perf_counter()
        for done in [pool.submit(worker.run, range(i, tiles, step)) for i, worker in enumerate(workers)]:
            done.result()
        return time.perf_counter() - began
