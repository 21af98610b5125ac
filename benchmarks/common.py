"""What all benchmarks share: interleaved rounds, ratios, and the one table.

Cores are shared and noisy, so no time is reported on its own: the cases of a comparison take turns in one run, the
ratio is formed within each round, and the median over the rounds is what counts.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from weightloom.fabric import ModelSpec

__all__ = ["Row", "interleave", "model_of", "note", "one_tensor", "print_table", "random_w", "ratio", "spread"]

PAUSE = 0.05  # seconds between two cases: OpenMP threads spin, and sockets close, a little longer than their work
QUIET, PATIENCE = 0.1, 60  # a case waits, for so many pauses at most, until others use less than this of the cores
STAT = Path("/proc/stat")
LENGTH = 64  # of w, wherever a benchmark needs one


@dataclass(frozen=True)
class Row:
    """One line of the table; ``met`` is None where there is no goal."""

    benchmark: str
    what: str
    result: str
    goal: str = ""
    met: bool | None = None

    @classmethod
    def at_least(cls, benchmark: str, what: str, value: float, goal: float | None = None, unit: str = "x") -> Row:
        """A ratio that should be large."""
        text = f"{value:.3g} {unit}" if value < 1000 else f"{value:.0f} {unit}"
        return cls(benchmark, what, text, f">= {goal:g} {unit}" if goal else "", value >= goal if goal else None)

    @classmethod
    def below(cls, benchmark: str, what: str, value: float, goal: float, unit: str) -> Row:
        """An amount that should be small."""
        return cls(benchmark, what, f"{value:.1f} {unit}", f"< {goal:g} {unit}", value < goal)


def interleave(
    cases: Mapping[str, Callable[[], float]], rounds: int, repeats: int = 1, warmup: int = 1
) -> dict[str, list[float]]:
    """What each case returns in each round, or the median of ``repeats``. Each round begins with another case."""
    results: dict[str, list[float]] = {name: [] for name in cases}
    names = list(cases)
    for number in range(-warmup, rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            _wait_for_quiet()
            value = statistics.median(cases[name]() for _ in range(repeats))
            if number >= 0:
                results[name].append(value)
    return results


def _wait_for_quiet() -> None:
    """Pause; go on pausing while other programs keep the cores busy, but not for ever."""
    for _ in range(PATIENCE):
        busy, total = _cpu_time()
        time.sleep(PAUSE)
        busy_after, total_after = _cpu_time()
        if busy_after - busy <= QUIET * (total_after - total):
            return


def _cpu_time() -> tuple[int, int]:
    """Busy and total ticks of all cores since boot; (0, 0) where the system does not tell."""
    if not STAT.exists():
        return 0, 0
    user, nice, system, idle, waiting, *others = map(int, STAT.read_text().split()[1:9])
    busy = user + nice + system + sum(others)
    return busy, busy + idle + waiting


def ratio(numerators: Sequence[float], denominators: Sequence[float]) -> float:
    """Median over the rounds of one case's number over another's."""
    return statistics.median(a / b for a, b in zip(numerators, denominators, strict=True))


def spread(values: Sequence[float], digits: int = 1, scale: float = 1.0) -> str:
    """Median and range, for notes."""
    low, middle, high = (f(values) * scale for f in (min, statistics.median, max))
    return f"{middle:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def one_tensor(rows: int, columns: int, r: int, seed: int = 1, name: str = "benchmark") -> dict[str, Any]:
    """The JSON spec of a model of one tensor "x"."""
    return {"name": name, "seed": seed, "tensors": [{"name": "x", "shape": [rows, columns], "l": LENGTH, "r": r}]}


def model_of(spec: dict[str, Any]) -> ModelSpec:
    """A JSON spec as the fabric takes it."""
    return ModelSpec.model_validate(spec)


def random_w(seed: int = 0) -> np.ndarray[Any, np.dtype[np.float32]]:
    """A w of ``LENGTH`` standard normals."""
    return np.random.default_rng(seed).standard_normal(LENGTH, np.float32)


def note(text: str) -> None:
    """One line of detail, printed as the benchmarks go."""
    print(f"  {text}", flush=True)


def print_table(rows: Sequence[Row]) -> None:
    """All results, each with its goal and whether it is met."""
    verdicts = {None: "", True: "met", False: "MISSED"}
    lines = [("benchmark", "what", "result", "goal", "")]
    lines += [(row.benchmark, row.what, row.result, row.goal, verdicts[row.met]) for row in rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    print()
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
