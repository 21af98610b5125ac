"""When to try again, and how long to wait before."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass

from weightloom_client.errors import ServerBusy, ServerUnreachable
from weightloom_client.protocol.transfer import Broken

__all__ = ["RetryPolicy", "Tries"]


@dataclass(frozen=True)
class RetryPolicy:
    """tries: on end, without a byte of progress. budget: seconds that may pass without progress, waits included.

    The pause before try n is random, up to ``first_pause`` * 2^n seconds and at most ``longest_pause``; a server's
    Retry-After is the least it can be. Another replica that has not failed yet is tried at once.
    """

    tries: int = 5
    budget: float = 120.0
    first_pause: float = 0.2
    longest_pause: float = 10.0

    def __post_init__(self) -> None:
        if self.tries < 1 or min(self.budget, self.first_pause, self.longest_pause) < 0:
            raise ValueError(f"expected tries of at least 1 and no negative times, got {self}")


class Tries:
    """The tries of one call. It does not wait itself: ``failed`` says for how long to."""

    def __init__(self, policy: RetryPolicy, replicas: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._policy, self._replicas, self._clock = policy, replicas, clock
        self.progressed()

    def progressed(self) -> None:
        """A byte has come: whatever failed before is forgotten."""
        self._failures, self._since = 0, self._clock()

    def failed(self, error: Broken | ServerBusy) -> float:
        """Seconds to wait before the next try. Raises ServerUnreachable or ``error`` itself where there is none."""
        self._failures += 1
        pause = self._pause(error)
        spent = self._clock() - self._since
        if self._failures < self._policy.tries * self._replicas and spent + pause <= self._policy.budget:
            return pause
        if isinstance(error, ServerBusy):
            error.add_note(f"after {self._failures} tries on end, {spent:.1f} s without progress")
            raise error
        message = f"failed {self._failures} times on end, in {spent:.1f} s without progress, the last time {error}"
        raise ServerUnreachable(message) from error

    def _pause(self, error: Broken | ServerBusy) -> float:
        rounds, others = divmod(self._failures, self._replicas)
        if others:  # a replica that has not failed in this round
            return 0.0
        limit = min(self._policy.longest_pause, self._policy.first_pause * 2.0**rounds)
        asked = error.retry_after or 0.0 if isinstance(error, ServerBusy) else 0.0
        return asked + limit * random.random()
