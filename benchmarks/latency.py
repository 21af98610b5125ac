"""Latency of a 64 x 64 request on an idle server, and beside four bulk streams that are drained at full speed.

One connection, kept alive, asks for a small tensor of a registered model again and again; each sample is the time from
sending the request to the end of its answer. Segments with and without the bulk take turns. The bulk is four streams of
four different models, so that none shares the work of another, far longer than a segment, and received by another
process; a segment begins when all four flow. On two cores the small client, too, has to wait for a core then.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from client import Request, client_process
from common import Row, interleave, note, one_tensor, print_table, random_w, ratio, spread
from load import background_drain, round_trips
from models import raw_request_of, register
from servers import Server, weightloom

__all__ = ["run"]

SMALL, BULK_SIDE, STREAMS = 64, 65536, 4  # a bulk stream has 16 GiB
SAMPLES, ROUNDS, GOAL = 400, 9, 10


@dataclass
class Segment:
    """A case: the p99 of ``SAMPLES`` requests in seconds. It keeps all samples."""

    call: Callable[..., Any]
    request: Request
    samples: list[float] = field(default_factory=list)

    def __call__(self) -> float:
        seconds = self.call(round_trips, self.request, SAMPLES)
        self.samples += seconds
        return _percentile(seconds, 99)


@dataclass
class LoadedSegment(Segment):
    """The same beside bulk streams; it keeps their speed, in bytes per second."""

    bulk: Sequence[Request] = ()
    bulk_rates: list[float] = field(default_factory=list)

    def __call__(self) -> float:
        with background_drain(self.bulk) as stop:
            p99 = super().__call__()
            self.bulk_rates.append(stop().per_second)
        return p99


def _percentile(samples: Sequence[float], percent: int) -> float:
    return statistics.quantiles(samples, n=100, method="inclusive")[percent - 1]


def _bulk_requests(server: Server) -> list[Request]:
    specs = [one_tensor(BULK_SIDE, BULK_SIDE, 2, seed) | {"w": {"x": random_w().tolist()}} for seed in range(STREAMS)]
    return [Request(server.port, "/fabricate", json.dumps(spec).encode()) for spec in specs]


def run() -> list[Row]:
    """A row for the median and one for the 99th percentile."""
    with weightloom() as server, client_process() as call:
        register(server, one_tensor(SMALL, SMALL, 2, name="small"))
        request = raw_request_of(server, "small")
        idle, loaded = Segment(call, request), LoadedSegment(call, request, bulk=_bulk_requests(server))
        p99 = interleave({"idle": idle, "loaded": loaded}, ROUNDS)
    for name, case in (("idle", idle), ("beside the bulk", loaded)):
        p50, p99_of_all = (_percentile(case.samples, percent) * 1e3 for percent in (50, 99))
        note(f"{name}: p50 {p50:.2f} ms, p99 {p99_of_all:.2f} ms of {len(case.samples)} samples")
    note(f"p99 by segment, ms: idle {spread(p99['idle'], 2, 1e3)}, loaded {spread(p99['loaded'], 2, 1e3)}")
    note(f"the bulk meanwhile: {spread(loaded.bulk_rates, 2, 1e-9)} GB/s")
    what = f"{SMALL} x {SMALL}, beside {STREAMS} bulk streams / idle"
    medians = _percentile(loaded.samples, 50) / _percentile(idle.samples, 50)
    return [
        Row("latency", f"{what}: p50", f"{medians:.1f} x"),
        Row.below("latency", f"{what}: p99", ratio(p99["loaded"], p99["idle"]), GOAL, "x"),
    ]


if __name__ == "__main__":
    print_table(run())
