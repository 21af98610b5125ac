"""A resident T against a virtual one, for small and large r: bytes per second over REST, and memory.

Two servers run side by side, alike but for the setting RESIDENCY; on one the model is warmed until all of its T is
there. Both send the same bytes to the same client, a whole model of 16 MiB at a time. Memory is what the server process
has after the streams over what it had when idle, before the model was registered: T and whatever else streams keep.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from client import client_process, download
from common import Row, interleave, note, one_tensor, print_table, ratio, spread
from models import register, request_of, warm
from servers import Server, weightloom

__all__ = ["run"]

SIDE = 2048  # with r = 64, T takes 1 GiB
RANKS = (2, 8, 64)
BUDGET = 3 << 29  # bytes for T's, 1.5 GiB
ROUNDS, REPEATS = 9, 3


@dataclass
class Warm:
    """A case: bytes per second of a download from a server that knows the model."""

    call: Callable[..., Any]
    server: Server
    idle_mib: float
    t_mib: float = 0.0

    def __call__(self) -> float:
        done = self.call(download, request_of(self.server, "benchmark"))
        return float(done.size / done.seconds)

    @property
    def over_idle_mib(self) -> float:
        """Memory now, over that when idle."""
        return self.server.memory_mib() - self.idle_mib


@contextmanager
def _case(call: Callable[..., Any], r: int, residency: str) -> Iterator[Warm]:
    with weightloom({"RESIDENCY": residency, "FACTOR_BYTES": BUDGET}) as server:
        case = Warm(call, server, server.memory_mib())
        register(server, one_tensor(SIDE, SIDE, r))
        if residency == "resident":
            case.t_mib = warm(server, "benchmark") / 2**20
        yield case


def _compare(call: Callable[..., Any], r: int) -> list[Row]:
    with _case(call, r, "resident") as resident, _case(call, r, "virtual") as virtual:
        rates = interleave({"resident": resident, "virtual": virtual}, ROUNDS, REPEATS)
        memory = f"{resident.over_idle_mib:.0f} / {virtual.over_idle_mib:.0f} MiB"
    for name, values in rates.items():
        note(f"r = {r}, {name}: {spread(values, 2, 1e-9)} GB/s")
    note(f"r = {r}: T takes {resident.t_mib:.0f} MiB; over idle, resident / virtual: {memory}")
    what = f"{SIDE} x {SIDE}, r = {r}, resident / virtual"
    return [
        Row.at_least("residency", f"{what}: bytes/s", ratio(rates["resident"], rates["virtual"])),
        Row("residency", f"{what}: memory over idle (T takes {resident.t_mib:.0f} MiB)", memory),
    ]


def run() -> list[Row]:
    """Two rows for each r."""
    note(f"{SIDE} x {SIDE} F32, a warm model, one client")
    with client_process() as call:
        return [row for r in RANKS for row in _compare(call, r)]


if __name__ == "__main__":
    print_table(run())
