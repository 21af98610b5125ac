"""What a fleet gives, by the prices of cost_model.py: arithmetic, not a measurement."""

from __future__ import annotations

from typing import Protocol

from cost_cases import Case

__all__ = ["print_plan"]

REPLICAS, CORES, VARIANTS, DAY = 1000, 2, 100e6, 86400
BUSY = 0.6  # of a replica's cores at the most, so that a rollout, a dead zone or a busy hour finds room
PROXY = 2.5e9  # bytes a second of one core of HAProxy, in the better of its settings
WORK = {
    "one small tensor": Case(64, 64, 2),
    "an adapter of 24 tensors, T virtual": Case(768, 768, 16, tensors=24, dtype="BF16"),
    "the same, T resident": Case(768, 768, 16, tensors=24, dtype="BF16", resident=True),
    "the same, virtual, 8 of a model at once": Case(768, 768, 16, tensors=24, dtype="BF16", streams=8),
    "a model of 64 tensors of 4096 × 4096, r = 8": Case(4096, 4096, 8, tensors=64, dtype="BF16"),
}


class Model(Protocol):
    """What tells the price of a request."""

    def of(self, case: Case) -> float:
        """Core-seconds."""


def print_plan(prices: Model) -> None:
    """A row for each kind of work."""
    print(f"\n{REPLICAS} replicas of {CORES} cores, {BUSY:.0%} busy; {VARIANTS / 1e6:.0f} million variants\n")
    print("| a request | core-ms | requests/s of a replica | of all | GB/s of all | cores of proxies | each variant |")
    print("|---|---|---|---|---|---|---|")
    for name, case in WORK.items():
        seconds = prices.of(case)
        rate = CORES * BUSY / seconds
        sent = rate * REPLICAS * case.reply_bytes
        daily = rate * REPLICAS * DAY / VARIANTS
        numbers = (seconds * 1e3, rate, rate * REPLICAS, sent / 1e9, sent / PROXY, daily)
        print(f"| {name} ({_size(case.reply_bytes)}) |", " | ".join(map(_short, numbers)), "times a day |")


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2g}"


def _size(count: float) -> str:
    for unit in ("B", "KB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"
