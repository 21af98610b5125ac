"""When to try again, and how long to wait before."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass

from weightloom_client.errors import ServerBusy, ServerFailed, ServerUnreachable
from weightloom_client.protocol.transfer import Broken

__all__ = ["RetryPolicy", "Tries"]


@dataclass(frozen=True)
class RetryPolicy:
    """tries: on end, without a byte of progress. budget: seconds that may pass without progress, waits included.

    The pause before try n is random, up to ``first_pause`` * 2^n seconds and at most ``longest_pause``; no server is
    asked again before its Retry-After has passed. Another replica that has not failed yet is tried at once.
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
        self._not_before = [0.0] * replicas
        self.progressed()

    def progressed(self) -> None:
        """A byte has come: whatever failed before is forgotten."""
        self._failures, self._since = 0, self._clock()

    def failed(self, error: Broken | ServerBusy | ServerFailed, place: int) -> tuple[int, float]:
        """The replica at ``place`` has failed: which one is to be tried next, and the seconds to wait before.

        Raises ServerUnreachable or ``error`` itself where no try is left. A fault is not asked for twice: after it each
        other replica has one try.
        """
        self._failures += 1
        now = self._clock()
        if isinstance(error, ServerBusy):
            self._not_before[place] = now + (error.retry_after or 0.0)
        following = min(self._after(place), key=lambda other: max(now, self._not_before[other]))
        pause = max(0.0, self._not_before[following] - now) + self._pause()
        most = 1 if isinstance(error, ServerFailed) else self._policy.tries
        spent = now - self._since
        if self._failures < most * self._replicas and spent + pause <= self._policy.budget:
            return following, pause
        if not isinstance(error, Broken):
            error.add_note(f"after {self._failures} tries on end, {spent:.1f} s without progress")
            raise error
        tries = f"{self._failures} tries on end failed, in {spent:.1f} s without progress"
        raise ServerUnreachable(f"{tries}; the last one: {error}") from None  # which has said it all

    def _after(self, place: int) -> list[int]:
        """All replicas in their turn, ``place`` last."""
        return [(place + step) % self._replicas for step in range(1, self._replicas + 1)]

    def _pause(self) -> float:
        rounds, others = divmod(self._failures, self._replicas)
        if others:  # a replica that has not failed in this round
            return 0.0
        return min(self._policy.longest_pause, self._policy.first_pause * 2.0**rounds) * random.random()
