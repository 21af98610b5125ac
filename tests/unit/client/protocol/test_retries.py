"""When another try is made, and after how long; no I/O, and a clock that is told the time."""

from __future__ import annotations

import pytest
from weightloom_client import RetryPolicy, ServerBusy, ServerFailed, ServerUnreachable
from weightloom_client.errors import server_error
from weightloom_client.protocol import Broken, Tries


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def busy(retry_after: float | None) -> ServerBusy:
    error = server_error(429, {"code": "too_many_requests"}, retry_after=retry_after)
    assert isinstance(error, ServerBusy)
    return error


def test_pauses_grow_are_random_and_have_a_limit() -> None:
    policy = RetryPolicy(tries=50, budget=1e9, first_pause=1, longest_pause=8)
    pauses: list[list[float]] = []
    for _ in range(200):
        tries = Tries(policy, 1, Clock())
        pauses.append([tries.failed(Broken(), 0)[1] for _ in range(6)])
    largest = [max(column) for column in zip(*pauses, strict=True)]
    for seen, limit in zip(largest, [2, 4, 8, 8, 8, 8], strict=True):
        assert limit / 2 < seen <= limit
    assert min(map(min, pauses)) < 0.2


def test_a_pause_is_at_least_what_the_server_asked_for() -> None:
    for _ in range(50):
        assert 7 <= Tries(RetryPolicy(), 1, Clock()).failed(busy(7), 0)[1] <= 7.5


def test_another_replica_is_tried_at_once_and_all_have_as_many_tries() -> None:
    tries, place, waits = Tries(RetryPolicy(tries=2), 3, Clock()), 1, []
    for _ in range(5):
        place, pause = tries.failed(Broken(), place)
        waits.append((place, pause > 0))
    assert waits == [(2, False), (0, False), (1, True), (2, False), (0, False)]
    with pytest.raises(ServerUnreachable, match="6 tries on end failed"):
        tries.failed(Broken("cut"), place)


def test_no_replica_is_asked_before_the_time_that_it_named() -> None:
    clock = Clock()
    tries = Tries(RetryPolicy(tries=9), 2, clock)
    assert tries.failed(busy(20), 0) == (1, 0.0)
    for _ in range(5):
        place, pause = tries.failed(busy(None), 1)
        assert (place, pause < 10) == (1, True)
        clock.now += 2
    clock.now = 21.0
    assert tries.failed(busy(None), 1)[0] == 0


def test_a_fault_is_not_asked_for_twice() -> None:
    fault = server_error(500, {"code": "internal"})
    assert isinstance(fault, ServerFailed)
    with pytest.raises(ServerFailed):
        Tries(RetryPolicy(), 1, Clock()).failed(fault, 0)
    tries = Tries(RetryPolicy(), 2, Clock())
    assert tries.failed(fault, 0) == (1, 0.0)
    with pytest.raises(ServerFailed):
        tries.failed(fault, 1)


def test_a_fault_of_what_is_between_is_asked_again() -> None:
    assert isinstance(server_error(500, {"detail": "Internal Server Error"}), ServerBusy)


def test_progress_makes_what_failed_before_forgotten() -> None:
    tries = Tries(RetryPolicy(tries=2), 1, Clock())
    for _ in range(10):
        tries.failed(Broken(), 0)
        tries.progressed()


def test_the_budget_ends_a_call_that_makes_no_progress() -> None:
    clock = Clock()
    tries = Tries(RetryPolicy(tries=99, budget=10), 1, clock)
    tries.failed(Broken(), 0)
    clock.now = 10.5
    with pytest.raises(ServerUnreachable, match=r"10.5 s without progress"):
        tries.failed(Broken(), 0)


def test_a_server_that_stays_busy_is_told_as_such() -> None:
    tries = Tries(RetryPolicy(budget=10), 1, Clock())
    with pytest.raises(ServerBusy) as told:
        tries.failed(busy(11), 0)  # the wait would be longer than the budget
    assert told.value.retry_after == 11


def test_a_policy_without_tries_is_refused() -> None:
    with pytest.raises(ValueError, match="tries of at least 1"):
        RetryPolicy(tries=0)
