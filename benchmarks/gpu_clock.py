"""The GPU's clock and memory: launches timed by events, outputs poisoned before each, none of them in the cache.

Where Triton interprets, the processor plays the GPU: everything runs, and no time means anything.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from weightloom.fabric import kernels_cuda as kernels

__all__ = ["DEVICE", "POISONS", "Outputs", "Plan", "free_bytes", "milliseconds", "release", "wait"]

DEVICE = torch.device("cpu" if kernels.INTERPRETED else "cuda:0")
POISONS = 0xAB, 0x54
ROTATED = 3  # outputs that take turns: what the last launch left in the L2 cache is not what the next one writes
HEAD_START = 20_000_000  # cycles
WARM_UP = 1 if kernels.INTERPRETED else 3


@dataclass(frozen=True)
class Plan:
    """How much is done.

    side: of W, for a launch. copied: bytes, to measure bandwidths. known: the most normals of a known answer's T.
    random: checks of random shapes, of at most ``most`` elements. stream: the side of W over REST.
    """

    side: int = 8192
    repeats: int = 25
    virtual: tuple[int, ...] = (1, 2, 3, 4, 8, 64)
    kept: tuple[int, ...] = (2, 8, 64)
    stored: tuple[int, ...] = (2, 8, 64)
    copied: int = 4 << 30
    known: int = 1 << 40
    random: int = 80
    most: int = 200_000
    tiles: int = 512
    threads: tuple[int, ...] = (1, 2, 4, 8, 16)
    stream: int = 16384
    streamed: tuple[int, ...] = (2, 64)

    @classmethod
    def quick(cls) -> Plan:
        """A little of everything, to see that the script works."""
        return cls(
            side=32, repeats=1, virtual=(1, 2, 8), kept=(2, 8), stored=(2, 8), copied=1 << 20, known=1 << 21,
            random=2, most=300, tiles=2, threads=(1, 2), stream=192, streamed=(2,),
        )  # fmt: skip


class Outputs:
    """Blocks of ``size`` bytes that take turns, poisoned."""

    def __init__(self, size: int) -> None:
        self._blocks = [torch.empty(size, dtype=torch.uint8, device=DEVICE) for _ in range(ROTATED)]

    def __getitem__(self, turn: int) -> Any:
        return self._blocks[turn % ROTATED]

    def poison(self, turn: int, pattern: int = POISONS[0]) -> Any:
        """Block of turn ``turn``, filled with ``pattern``."""
        return self[turn].fill_(pattern)

    def check_written(self, launch: Callable[[Any], None]) -> None:
        """Raise ValueError where ``launch`` leaves any byte as it was."""
        for turn, pattern in enumerate(POISONS):
            launch(self.poison(turn, pattern))
        if not torch.equal(self[0], self[1]):
            raise ValueError("some of the output was not written")


def milliseconds(launch: Callable[[int], Any], repeats: int, prepare: Callable[[int], Any] = int) -> float:
    """The median time of ``launch(turn)``; ``prepare(turn)`` before it is not counted.

    All is enqueued at once behind a pause, so that the GPU never waits for the next launch.
    """
    marks = []
    if not kernels.INTERPRETED:
        pause: Any = torch.cuda._sleep
        pause(HEAD_START)
    for turn in range(WARM_UP + repeats):
        prepare(turn)
        began = _mark()
        launch(turn)
        marks.append((began, _mark()))
    wait()
    return statistics.median(_between(*pair) for pair in marks[WARM_UP:])


def _mark() -> Any:
    if kernels.INTERPRETED:
        return time.perf_counter()
    new: Any = torch.cuda.Event
    event = new(enable_timing=True)
    event.record()
    return event


def _between(began: Any, ended: Any) -> float:
    return float((ended - began) * 1e3 if kernels.INTERPRETED else began.elapsed_time(ended))


def wait() -> None:
    """Until the GPU has done everything."""
    if not kernels.INTERPRETED:
        torch.cuda.synchronize()


def free_bytes() -> int:
    """Of the GPU's memory."""
    return 1 << 30 if kernels.INTERPRETED else int(torch.cuda.mem_get_info(DEVICE)[0])


def release() -> None:
    """Give back memory that is no longer used."""
    gc.collect()
    if not kernels.INTERPRETED:
        torch.cuda.empty_cache()
