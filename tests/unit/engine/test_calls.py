"""What a call is told to have ended by."""

from __future__ import annotations

import asyncio

import pytest
from weightloom.engine import Call
from weightloom.engine.calls import DEADLINE_SPARE_SECONDS


class Clock:
    now = 100.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr("weightloom.engine.calls.time", made)
    return made


def code_of_cancelled(clock: Clock, timeout: float | None, after: float) -> str:
    """How a call ends that is cancelled so many seconds after it began."""
    call = Call(lambda ended: None, "grpc", "fabricate", timeout=timeout)
    clock.now += after
    call.failed(asyncio.CancelledError())
    return call.code


def test_who_cancels_at_the_deadline_has_given_up_because_of_it(clock: Clock) -> None:
    """A client of gRPC cancels at its own deadline, which is a little before the one that the server counts to."""
    for after in (10 - DEADLINE_SPARE_SECONDS / 2, 10, 11):
        assert code_of_cancelled(clock, 10, after) == "deadline_exceeded"


@pytest.mark.parametrize("timeout", [10, None])
def test_who_cancels_before_it_has_just_gone(clock: Clock, timeout: float | None) -> None:
    assert code_of_cancelled(clock, timeout, 10 - 2 * DEADLINE_SPARE_SECONDS) == "cancelled"
