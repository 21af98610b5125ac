"""Values within a budget of bytes; the least recently used goes first. What the factor store keeps things on."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

from weightloom.engine.observer import Observer

__all__ = ["Shelf"]

V = TypeVar("V")


@dataclass
class _Place(Generic[V]):
    value: V
    size: int
    last_use: int


class Shelf(Generic[V]):
    """Called ``name`` in metrics. Safe to use from many threads; ``now`` is a clock that only ever goes up."""

    def __init__(self, name: str, budget: int, observer: Observer) -> None:
        self._name, self._budget, self._observer = name, budget, observer
        self._places: OrderedDict[Hashable, _Place[V]] = OrderedDict()
        self._held, self._lock = 0, threading.Lock()

    def get(self, key: Hashable) -> V | None:
        """A value, without counting this as a use."""
        place = self._places.get(key)
        return None if place is None else place.value

    def use(self, key: Hashable, now: int) -> V | None:
        """A value, which is now the most recently used."""
        with self._lock:
            place = self._places.get(key)
            if place is None:
                return None
            place.last_use = now
            self._places.move_to_end(key)
        self._observer.factor_used(self._name)
        return place.value

    def add(self, key: Hashable, size: int, now: int, make: Callable[[], V], only_over: int | None = None) -> V | None:
        """Make room and a value, once for each key. None where ``size`` does not fit into the budget.

        only_over: push out only what was last used before this time, and keep nothing where that is not enough.
        """
        with self._lock:
            place = self._places.get(key)
            if place is not None:
                return place.value
            leaving = self._leaving(size, only_over)
            if leaving is None:
                return None
            value = make()  # before anything goes, since it can fail
            for old in leaving:
                self._remove(old)
            self._places[key] = _Place(value, size, now)
            self._held += size
        self._observer.factor_built(self._name)
        self._observer.factors_held(self._name, self._held)
        return value

    def drop(self, key: Hashable) -> None:
        """Give up a value, if it is there."""
        with self._lock:
            if key in self._places:
                self._remove(key)
        self._observer.factors_held(self._name, self._held)

    def drop_oldest(self) -> bool:
        """Give up the least recently used value; False where there is none."""
        with self._lock:
            oldest = next(iter(self._places), None)
            if oldest is None:
                return False
            self._remove(oldest)
        self._observer.factors_held(self._name, self._held)
        return True

    def clear(self) -> None:
        """Give up all."""
        for key in list(self._places):
            self.drop(key)

    def _leaving(self, size: int, only_over: int | None) -> list[Hashable] | None:
        """Which values must go to make room, or None where they may not."""
        leaving, free = [], self._budget - self._held
        if size > self._budget:
            return None
        for key, place in self._places.items():
            if free >= size:
                break
            if only_over is not None and place.last_use >= only_over:
                return None
            leaving.append(key)
            free += place.size
        return leaving if free >= size else None

    def _remove(self, key: Hashable) -> None:
        self._held -= self._places.pop(key).size
        self._observer.factor_evicted(self._name)
