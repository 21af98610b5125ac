"""The observer that counts: it notes what happened in less than a microsecond, and adds it up a little later.

One ``inc`` takes 0.3 microseconds, or 0.9 in multiprocess mode, and an observation of a histogram up to 2.5: some 5 and
16 for all that a small request counts, on the event loop. To note it takes 0.3; what was noted is added up together,
for 1 to 2 per request, by a thread, by every scrape, and at the end.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter as Tally
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from typing import TypeVar
from weakref import WeakSet

from weightloom import errors
from weightloom.engine import Call
from weightloom.engine.observer import Observer
from weightloom.telemetry import metrics

__all__ = ["CALLS", "OTHER", "PrometheusObserver", "exposition"]

ADD_UP_SECONDS = 0.1  # of thousands of requests a second, in a millisecond: the event loop waits for it
FRONTS = frozenset({"rest", "grpc"})
CALLS = frozenset({"fabricate", "create_model", "get_model", "list_models", "delete_model", "set_residency"}) | {
    "put_factors",
    "get_factors",
}
STORES = frozenset({"T", "PQS", *(f"T cuda:{index}" for index in range(64))})
OTHER = "other"  # for whatever no table knows: a label's values must stay few
FACTOR_COUNTERS = {
    "hit": metrics.FACTOR_HITS,
    "built": metrics.FACTOR_BUILDS,
    "evicted": metrics.FACTOR_EVICTIONS,
}

log = logging.getLogger(__name__)
T = TypeVar("T")
_observers: WeakSet[PrometheusObserver] = WeakSet()


def exposition() -> tuple[bytes, str]:
    """The reply to GET /metrics: body and content type. Other workers' numbers are up to a tenth of a second old."""
    for observer in list(_observers):
        observer.add_up()
    return metrics.render()


class PrometheusObserver(Observer):
    """Counts everything; each of ``listeners`` is told of each ended call at once. Close it when the engine is closed.

    more_codes: outcome codes of the fronts that are not in errors.py. It has a thread, so make it after a fork.
    """

    def __init__(self, more_codes: Iterable[str] = (), listeners: Sequence[Callable[[Call], None]] = ()) -> None:
        self._codes = frozenset({"ok", "cancelled", *_error_codes(errors.WeightloomError), *more_codes})
        self._listeners = tuple(listeners)
        self._calls: deque[Call] = deque()
        self._passes: deque[int] = deque()
        self._factors: deque[tuple[str, str]] = deque()
        self._load, self._held = (0, 0, 0), dict.fromkeys(sorted(STORES), 0)
        self._adding, self._closed = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._add_up_again_and_again, name="metrics", daemon=True)
        self._thread.start()
        _observers.add(self)

    def call_ended(self, call: Call) -> None:
        """Note it, and tell the listeners."""
        self._calls.append(call)
        for listener in self._listeners:
            listener(call)

    def pass_made(self, tiles: int) -> None:
        """Note it."""
        self._passes.append(tiles)

    def load_changed(self, running: int, waiting: int, bytes_in_flight: int) -> None:
        """Keep the newest."""
        self._load = running, waiting, bytes_in_flight

    def factors_held(self, store: str, size: int) -> None:
        """Keep the newest."""
        self._held[_known(store, STORES)] = size

    def factor_used(self, store: str) -> None:
        """Note it."""
        self._factors.append(("hit", store))

    def factor_built(self, store: str) -> None:
        """Note it."""
        self._factors.append(("built", store))

    def factor_evicted(self, store: str) -> None:
        """Note it."""
        self._factors.append(("evicted", store))

    def add_up(self) -> None:
        """Bring the metrics up to date."""
        with self._adding:
            self._add_calls(list(_taken(self._calls)))
            if passes := list(_taken(self._passes)):
                metrics.PASS_TILES.observe_all(passes)
            for (event, store), count in Tally(_taken(self._factors)).items():
                FACTOR_COUNTERS[event].labels(_known(store, STORES)).inc(count)
            gauges = (metrics.STREAMS_RUNNING, metrics.REQUESTS_WAITING, metrics.BYTES_IN_FLIGHT)
            for gauge, value in zip(gauges, self._load, strict=True):
                gauge.set(value)
            for store, size in self._held.copy().items():
                metrics.FACTOR_STORE_BYTES.labels(store).set(size)

    def close(self) -> None:
        """Add up for the last time."""
        self._closed.set()
        self._thread.join()
        self.add_up()
        _observers.discard(self)

    def _add_up_again_and_again(self) -> None:
        while not self._closed.wait(ADD_UP_SECONDS):
            try:
                self.add_up()
            except Exception:
                log.exception("the metrics could not be added up")

    def _add_calls(self, calls: list[Call]) -> None:
        for (front, name, code), count in Tally((call.front, call.name, call.code) for call in calls).items():
            labels = _known(front, FRONTS), _known(name, CALLS), _known(code, self._codes)
            metrics.REQUESTS.labels(*labels).inc(count)
        for (front, name), group in _grouped(calls):
            child = metrics.REQUEST_SECONDS.labels(_known(front, FRONTS), _known(name, CALLS))
            child.observe_all([call.seconds for call in group])
            metrics.SENT_BYTES.labels(_known(front, FRONTS)).inc(sum(call.sent_bytes for call in group))
        metrics.ELEMENTS.inc(sum(call.elements for call in calls))
        admitted = [call for call in calls if call.name == "fabricate" and (call.sent_bytes or call.queue)]
        if admitted:
            metrics.QUEUE_SECONDS.observe_all([call.queue for call in admitted])
            metrics.COMPUTE_SECONDS.observe_all([call.compute for call in admitted])
            metrics.SEND_SECONDS.observe_all([call.send for call in admitted])


def _grouped(calls: list[Call]) -> Iterator[tuple[tuple[str, str], list[Call]]]:
    def key(call: Call) -> tuple[str, str]:
        return call.front, call.name

    return ((found, list(group)) for found, group in groupby(sorted(calls, key=key), key))


def _taken(noted: deque[T]) -> Iterator[T]:
    """What is there now, taken out; more may come from other threads meanwhile."""
    return (noted.popleft() for _ in range(len(noted)))


def _known(value: str, known: frozenset[str]) -> str:
    return value if value in known else OTHER


def _error_codes(kind: type[errors.WeightloomError]) -> set[str]:
    return set(kind.codes).union(*map(_error_codes, kind.__subclasses__()))
