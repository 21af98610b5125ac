"""A model of what requests cost a server, fitted on some cases and checked on others; then of memory, and a plan.

The model is a sum: each unit (a request, a tensor, a normal number drawn, a product, a byte of T read, a byte sent) has
a price in the server's processor time, and cost_cases.py says how many of each a request takes. Prices are fitted to
``FITTED`` (least squares of the relative errors, no price below 0) and then tell what ``CHECKED`` should cost; what is
printed for these is the ratio to what they do cost, in the same run. What a pass shares is taken from the one fitted
case with many streams: this share of the streams is in step.

``python benchmarks/cost_model.py`` takes some four minutes, and is no part of `make bench`: it compares nothing.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import zip_longest
from typing import Any

import numpy as np
from client import client_process
from common import note
from cost_cases import UNITS, Case, Cost, measure
from cost_memory import print_memory
from cost_plan import print_plan
from models import register, warm
from scipy.optimize import nnls
from servers import Server, weightloom

__all__ = ["Prices", "main"]

SECONDS, ROUNDS = 0.5, 5
MANY = Case(2048, 2048, 16, streams=16)
FITTED = [
    Case(64, 64, 2, streams=16),
    Case(16, 16, 2, streams=16),
    Case(64, 64, 4, tensors=96),
    Case(2048, 2048, 1),
    Case(2048, 2048, 2, dtype="F16"),
    Case(2048, 2048, 8),
    Case(2048, 1024, 32),
    MANY,
    Case(2048, 2048, 2, resident=True),
    Case(2048, 2048, 16, resident=True),
    Case(2048, 2048, 8, dtype="BF16", streams=8, resident=True),
]
CHECKED = [
    Case(96, 64, 3, streams=8),
    Case(128, 96, 8, tensors=24),
    Case(768, 768, 8, tensors=12),
    Case(3000, 1000, 5),
    Case(4096, 4096, 2, streams=4, models=4),
    Case(4096, 2048, 64, dtype="BF16"),
    Case(1024, 1024, 16, batch=4, streams=2, models=2),
    Case(256, 256, 16, batch=32),
    Case(2048, 2048, 8, streams=8),
    Case(2048, 2048, 4, dtype="F16", streams=8, models=2),
    Case(2048, 1024, 32, resident=True, streams=4),
    Case(3000, 1000, 5, resident=True),
]


class Prices:
    """Core-seconds of each unit. ``in_step``: the share of streams of one model that a pass makes together."""

    def __init__(self, each: Sequence[float], in_step: float) -> None:
        self.each, self.in_step = np.asarray(each), in_step

    @classmethod
    def fitted(cls, costs: dict[Case, Cost]) -> Prices:
        """From cases that were measured."""
        counts = np.array([case.counts(cost.tiles_per_pass) for case, cost in costs.items()])
        measured = np.array([cost.core_seconds for cost in costs.values()])
        relative = counts / measured[:, None]
        scale = relative.max(axis=0)  # so that all columns weigh alike in the solver
        solution, _ = nnls(relative / scale, np.ones(len(costs)))
        return cls(solution / scale, costs[MANY].tiles_per_pass / MANY.streams)

    def of(self, case: Case) -> float:
        """What one request should cost, in core-seconds."""
        return float(self.each @ np.array(case.counts(case.together(self.in_step))))


@contextmanager
def _known(server: Server, cases: Sequence[Case]) -> Iterator[None]:
    """All models registered; T's of the resident ones there."""
    for spec in (spec for case in {case.model: case for case in cases}.values() for spec in case.specs()):
        register(server, spec)
    for case in cases:
        if case.resident:
            warm(server, case.specs()[0]["name"])
    yield


def _measure_all(call: Callable[..., Any], server: Server) -> dict[Case, Cost]:
    """The median of each case over rounds in which they take turns."""
    pairs = zip_longest(FITTED, CHECKED)  # in turn, so that what else the machine does meets both kinds alike
    cases = [case for pair in pairs for case in pair if case is not None]
    found: dict[Case, list[Cost]] = {case: [] for case in cases}
    for number in range(-1, ROUNDS):
        for case in cases:
            cost = measure(call, server, case, SECONDS if number >= 0 else 0.1)
            if number >= 0:
                found[case].append(cost)
    return {case: sorted(costs, key=lambda cost: cost.core_seconds)[ROUNDS // 2] for case, costs in found.items()}


def _print_costs(title: str, costs: dict[Case, Cost], prices: Prices) -> None:
    print(f"\n{title}\n\n| case | predicted, core-ms | measured | predicted / measured |\n|---|---|---|---|")
    for case, cost in costs.items():
        told = prices.of(case)
        print(f"| {case.name} | {told * 1e3:.3g} | {cost.core_seconds * 1e3:.3g} | {told / cost.core_seconds:.2f} |")


def main() -> None:
    """Print prices, both tables, memory, and the plan."""
    settings = {"RESIDENCY": "virtual", "FACTOR_BYTES": 3 << 30}
    with weightloom(settings) as server, client_process() as call, _known(server, FITTED + CHECKED):
        note(f"{len(FITTED)} cases to fit, {len(CHECKED)} to check, {ROUNDS} rounds")
        costs = _measure_all(call, server)
    prices = Prices.fitted({case: costs[case] for case in FITTED})
    print("\n| unit | price |\n|---|---|")
    for unit, price in zip(UNITS, prices.each, strict=True):
        print(f"| {unit} | {price * 1e6:.3g} µs |" if price > 1e-7 else f"| {unit} | {price * 1e9:.3g} ns |")
    print(f"| streams of one model in step | {prices.in_step:.2f} of them |")
    _print_costs("Fitted", {case: costs[case] for case in FITTED}, prices)
    _print_costs("Checked", checked := {case: costs[case] for case in CHECKED}, prices)
    ratios = [prices.of(case) / cost.core_seconds for case, cost in checked.items()]
    print(f"\nchecked: median {statistics.median(ratios):.2f}, from {min(ratios):.2f} to {max(ratios):.2f}")
    print_memory()
    print_plan(prices)


if __name__ == "__main__":
    main()
