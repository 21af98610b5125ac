"""Every metric of the server, in one file; docs/metrics.md is generated from it.

``PrometheusObserver`` (counting.py) fills them. With several workers the parent process sets PROMETHEUS_MULTIPROC_DIR
before a worker imports this module: each worker then keeps its numbers in files there, and any of them answers for all.
"""

from __future__ import annotations

import os
from bisect import bisect_left
from collections import Counter as Tally
from collections.abc import Sequence
from dataclasses import dataclass
from math import fsum
from typing import TypeVar

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.multiprocess import MultiProcessCollector

from weightloom import __version__

__all__ = [
    "BUILD_INFO",
    "BYTES_IN_FLIGHT",
    "COMPUTE_SECONDS",
    "ELEMENTS",
    "FACTOR_BUILDS",
    "FACTOR_EVICTIONS",
    "FACTOR_HITS",
    "FACTOR_STORE_BYTES",
    "METRICS",
    "PASS_TILES",
    "QUEUE_SECONDS",
    "REQUESTS",
    "REQUESTS_WAITING",
    "REQUEST_SECONDS",
    "SEND_SECONDS",
    "SENT_BYTES",
    "STREAMS_RUNNING",
    "BulkHistogram",
    "Metric",
    "render",
]

SECONDS = [step * 10.0**power for power in range(-4, 2) for step in (1, 2.5, 5)] + [100.0]
TILES = [1, 2, 4, 8, 16, 32, 64]
M = TypeVar("M", bound=MetricWrapperBase)

# Half of all lines otherwise, and nobody looks at them.
prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]


class BulkHistogram(Histogram):
    """A histogram that takes many observations for about the price of one."""

    def observe_all(self, amounts: Sequence[float]) -> None:
        """The same as ``observe`` for each of them."""
        for bucket, count in Tally(bisect_left(self._upper_bounds, amount) for amount in amounts).items():
            self._buckets[bucket].inc(count)
        self._sum.inc(fsum(amounts))


@dataclass(frozen=True)
class Metric:
    """A row of docs/metrics.md. ``watch`` is what to look at, or to alert on."""

    name: str
    kind: str
    labels: tuple[str, ...]
    help: str
    watch: str


METRICS: list[Metric] = []


def _metric(kind: type[M], name: str, text: str, watch: str, labels: Sequence[str] = (), **options: object) -> M:
    full = f"weightloom_{name}"
    METRICS.append(Metric(full, kind.__name__.removeprefix("Bulk").lower(), tuple(labels), text, watch))
    return kind(full, text, labels, **options)  # type: ignore[arg-type]


REQUESTS = _metric(
    Counter, "requests_total", "Calls that ended, by outcome: ok, cancelled, or an error's code.",
    'Alert on the rate of code="internal" above 0, and on the share of too_many_requests and deadline_exceeded.',
    ["front", "call", "code"],
)  # fmt: skip
REQUEST_SECONDS = _metric(
    BulkHistogram, "request_seconds", "Time from a call's beginning to its end, its body sent.",
    "The p99 of get_model tells how the service feels; fabricate depends on the sizes that are asked for.",
    ["front", "call"], buckets=SECONDS,
)  # fmt: skip
SENT_BYTES = _metric(
    Counter, "sent_bytes_total", "Bytes of bodies handed to the network, counted when a call ends.",
    "Its rate is the server's throughput; compare it with the network's.", ["front"],
)  # fmt: skip
ELEMENTS = _metric(
    Counter, "elements_total", "Elements of W made, counted when a call ends.",
    "Its rate falling while streams run means a slower machine, or models of larger r.",
)  # fmt: skip
QUEUE_SECONDS = _metric(
    BulkHistogram, "queue_seconds", "Time that a fabricate call waited: at the gate, and for a worker to begin.",
    "A p99 above a few seconds: add replicas, or raise max_streams where the cores are idle.", buckets=SECONDS,
)  # fmt: skip
COMPUTE_SECONDS = _metric(
    BulkHistogram, "compute_seconds",
    "Workers' time for a fabricate call's tiles, its share where a pass served others too.",
    "High beside a low send_seconds: the processor is the limit; see pass_tiles and the factor store.", buckets=SECONDS,
)  # fmt: skip
SEND_SECONDS = _metric(
    BulkHistogram, "send_seconds", "Time that a fabricate call waited for its reader to take bytes.",
    "High beside a low compute_seconds: the readers or the network are the limit.", buckets=SECONDS,
)  # fmt: skip
PASS_TILES = _metric(
    BulkHistogram, "pass_tiles", "Tiles made for one drawing (or reading) of factors: how much is batched.",
    "A mean near 1 under load: the requests share no tensors, or do not start together.", buckets=TILES,
)  # fmt: skip
STREAMS_RUNNING = _metric(
    Gauge, "streams_running", "Streams that passed the gate and have not ended.",
    "Near max_streams for long: the server is full.", multiprocess_mode="livesum",
)  # fmt: skip
REQUESTS_WAITING = _metric(
    Gauge, "requests_waiting", "Requests that wait at the gate.",
    "Above 0 for long: add replicas before too_many_requests begins.", multiprocess_mode="livesum",
)  # fmt: skip
BYTES_IN_FLIGHT = _metric(
    Gauge, "bytes_in_flight", "Bytes that running and waiting requests may hold.",
    "Near max_bytes_in_flight: the next requests get too_many_bytes.", multiprocess_mode="livesum",
)  # fmt: skip
FACTOR_STORE_BYTES = _metric(
    Gauge, "factor_store_bytes", "Bytes of factors that are kept, by store: T (T cuda:0 on a GPU), or PQS.",
    "At its budget all the time, with evictions: the budget is smaller than the models in use.",
    ["store"], multiprocess_mode="livesum",
)  # fmt: skip
FACTOR_HITS = _metric(
    Counter, "factor_hits_total", "Uses of a factor that was there already.",
    "hits / (hits + builds) is the hit rate.", ["store"],
)  # fmt: skip
FACTOR_BUILDS = _metric(
    Counter, "factor_builds_total", "Factors drawn to be kept.",
    "As fast as evictions: the store works for nothing; raise its budget or make models virtual.", ["store"],
)  # fmt: skip
FACTOR_EVICTIONS = _metric(
    Counter, "factor_evictions_total", "Factors given up, so that others have room.",
    "Steadily above 0: see builds.", ["store"],
)  # fmt: skip
BUILD_INFO = _metric(
    Gauge, "build_info", "1; its label tells the version.",
    "Two versions at once for longer than a rollout takes.", ["version"], multiprocess_mode="livemax",
)  # fmt: skip
BUILD_INFO.labels(__version__).set(1)


def render() -> tuple[bytes, str]:
    """The numbers of this process, or of all workers together, in Prometheus' text format: body and content type."""
    registry = prometheus_client.REGISTRY
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return generate_latest(registry), prometheus_client.CONTENT_TYPE_LATEST
