"""16 simultaneous streams of one model, each of its own w, against one stream alone: bytes per second in all.

T is virtual and r = 16, so most of a lone stream's time goes into drawing T. Streams that ask for the same tensors
share each drawing (a pass makes the tiles of all of them), so 16 of them should get much more than 16 shares of what
one gets. Both cases run on one server; the same client process, one thread with epoll and one warm buffer, receives 1
or 16 bodies as they come and throws them away; how busy it is tells whether it is the limit (1.0: it is).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from client import client_process
from common import Row, interleave, note, one_tensor, print_table, ratio, spread
from load import Drained, drain
from models import counter, register, request_of
from servers import Server, weightloom

__all__ = ["run"]

SIDE, R, STREAMS = 4096, 16, 16
ROUNDS, GOAL = 7, 4
PASSES = "weightloom_pass_tiles"


@dataclass
class Streams:
    """A case: ``count`` streams at once. It keeps what the client says, and the tiles that a pass made on average."""

    call: Callable[..., Any]
    server: Server
    count: int
    drained: list[Drained] = field(default_factory=list)
    tiles_per_pass: list[float] = field(default_factory=list)

    def __call__(self) -> float:
        tiles, passes = self._passes()
        requests = [request_of(self.server, "benchmark", seed) for seed in range(self.count)]
        self.drained.append(self.call(drain, requests))
        tiles_after, passes_after = self._passes()
        self.tiles_per_pass.append((tiles_after - tiles) / (passes_after - passes))
        return self.drained[-1].per_second

    def _passes(self) -> tuple[float, float]:
        return counter(self.server, f"{PASSES}_sum"), counter(self.server, f"{PASSES}_count")

    def note(self, rates: list[float]) -> None:
        """One line."""
        busy = spread([one.cpu_seconds / one.seconds for one in self.drained], 2)
        tiles = spread(self.tiles_per_pass)
        note(f"{self.count} streams: {spread(rates, 2, 1e-9)} GB/s in all; {tiles} tiles per pass; client busy {busy}")


def run() -> list[Row]:
    """One row."""
    note(f"{SIDE} x {SIDE} F32, r = {R}, virtual T; {STREAMS} streams of different w's, or one")
    with weightloom({"RESIDENCY": "virtual"}) as server, client_process() as call:
        register(server, one_tensor(SIDE, SIDE, R))
        cases = {count: Streams(call, server, count) for count in (1, STREAMS)}
        rates = interleave({str(count): case for count, case in cases.items()}, ROUNDS)
    for count, case in cases.items():
        case.note(rates[str(count)])
    what = f"{SIDE} x {SIDE}, r = {R}, virtual: bytes/s of {STREAMS} streams / of one alone"
    return [Row.at_least("many_streams", what, ratio(rates[str(STREAMS)], rates["1"]), GOAL)]


if __name__ == "__main__":
    print_table(run())
