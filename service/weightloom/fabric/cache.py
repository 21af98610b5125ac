"""A cache that is bounded by the weight of what it holds; what was used longest ago goes first."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

__all__ = ["BoundedCache"]

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class BoundedCache(Generic[K, V]):
    """Values whose weights add up to at most ``limit``; a heavier one is not kept. Safe to use from many threads."""

    def __init__(self, limit: int, weight: Callable[[V], int]) -> None:
        self._limit, self._weight, self._total = limit, weight, 0
        self._values: OrderedDict[K, V] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: K) -> V | None:
        """The value, or None."""
        with self._lock:
            value = self._values.get(key)
            if value is not None:
                self._values.move_to_end(key)
            return value

    def put(self, key: K, value: V) -> None:
        """Keep a value; equal keys must mean equal values."""
        weight = self._weight(value)
        with self._lock:
            if key in self._values or weight > self._limit:
                return
            self._values[key] = value
            self._total += weight
            while self._total > self._limit:
                _, gone = self._values.popitem(last=False)
                self._total -= self._weight(gone)
