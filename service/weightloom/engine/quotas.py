"""What a key may use in a minute, as buckets that fill up evenly."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

__all__ = ["Bucket"]

MINUTE = 60.0
ROUNDINGS = 1e-6


class Bucket:
    """Holds what may be used in a minute at most; empty when it began to be used up, and full again a minute later."""

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.per_minute, self._clock = per_minute, clock
        self._level, self._at = float(per_minute), clock()

    def wait(self, amount: float) -> int:
        """Whole seconds until ``amount`` could be taken; 0 where it can be now."""
        missing = min(amount, self.per_minute) - self._filled() - ROUNDINGS
        return math.ceil(missing / self.per_minute * MINUTE) if missing > 0 else 0

    def take(self, amount: float) -> None:
        """Use it, be it more than there is: what comes next waits the longer."""
        self._level = self._filled() - amount

    def _filled(self) -> float:
        now = self._clock()
        self._level = min(float(self.per_minute), self._level + (now - self._at) / MINUTE * self.per_minute)
        self._at = now
        return self._level
