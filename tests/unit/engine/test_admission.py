"""The gate: at once where there is room, in order where there is not, and a clear refusal beyond that."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import ExitStack

import pytest
from weightloom.engine import Call, EngineLimits, Observer
from weightloom.engine.admission import Admission
from weightloom.errors import DeadlineExceeded, Overloaded, Unavailable


class Gate(Observer):
    """A gate with its calls, and what it told about its load."""

    def __init__(self, **limits: float) -> None:
        self.loads: list[tuple[int, int, int]] = []
        self.admission = Admission(EngineLimits(threads=1, **limits), self)  # type: ignore[arg-type]

    def load_changed(self, running: int, waiting: int, bytes_in_flight: int) -> None:
        self.loads.append((running, waiting, bytes_in_flight))

    def call(self, timeout: float | None = None) -> Call:
        return Call(self.admission.leave, "rest", "fabricate", timeout=timeout)


def run(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 60))  # type: ignore[arg-type]


def test_streams_wait_in_order_and_over_the_queue_they_are_refused() -> None:
    gate, order = Gate(max_streams=2, max_queued=3), list[int]()

    async def stream(number: int, end: asyncio.Event) -> None:
        with gate.call() as call:
            await gate.admission.enter(call, 10)
            order.append(number)
            await end.wait()

    async def test() -> None:
        ends = [asyncio.Event() for _ in range(5)]
        tasks = [asyncio.create_task(stream(number, end)) for number, end in enumerate(ends)]
        await asyncio.sleep(0)
        assert (gate.admission.running, gate.admission.waiting) == (2, 3)
        with gate.call() as call, pytest.raises(Overloaded) as refused:
            await gate.admission.enter(call, 10)
        assert refused.value.code == "too_many_requests"
        assert 1 <= refused.value.retry_after <= 60
        for end in ends:
            end.set()
        await asyncio.gather(*tasks)

    run(test)
    assert order == [0, 1, 2, 3, 4]
    assert gate.loads[-1] == (0, 0, 0)
    assert max(running for running, _, _ in gate.loads) == 2


def test_bytes_are_counted_but_one_stream_may_always_run() -> None:
    gate = Gate(max_bytes_in_flight=100, max_queued=1)

    async def test() -> None:
        with gate.call() as huge:
            await gate.admission.enter(huge, 1000)
            with gate.call() as other, pytest.raises(Overloaded, match="hold 1000 bytes, this one would add 1") as full:
                gate.admission.hold(other, 1)
            assert full.value.code == "too_many_bytes"
            with gate.call() as small:
                waiting = asyncio.create_task(gate.admission.enter(small, 1))
                await asyncio.sleep(0)
                assert gate.admission.waiting == 1
                gate.admission.leave(huge)
                await waiting
                assert gate.admission.bytes_in_flight == 1
        with gate.call() as alone:
            gate.admission.hold(alone, 500)
        assert gate.admission.bytes_in_flight == 0

    run(test)


@pytest.mark.parametrize(("limits", "timeout"), [({"max_queue_seconds": 0.05}, None), ({}, 0.05)])
def test_who_waits_too_long_is_told(limits: dict[str, float], timeout: float | None) -> None:
    gate = Gate(max_streams=1, **limits)

    async def test() -> None:
        with gate.call() as first, gate.call(timeout) as second:
            await gate.admission.enter(first, 1)
            with pytest.raises(DeadlineExceeded):
                await gate.admission.enter(second, 1)
            assert gate.admission.waiting == 0

    run(test)
    assert gate.loads[-1] == (0, 0, 0)


def test_who_comes_too_late_takes_no_place_in_the_queue() -> None:
    gate = Gate(max_streams=1)

    async def test() -> None:
        with gate.call() as first:
            await gate.admission.enter(first, 1)
            with pytest.raises(DeadlineExceeded), gate.call(timeout=-1.0) as late:
                await gate.admission.enter(late, 1)
            assert gate.admission.waiting == 0

    run(test)
    assert gate.loads[-1] == (0, 0, 0)


def test_who_goes_away_while_waiting_leaves_no_place_taken() -> None:
    gate = Gate(max_streams=1)

    async def wait() -> None:
        with gate.call() as call:
            await gate.admission.enter(call, 1)

    async def test() -> None:
        with gate.call() as first:
            await gate.admission.enter(first, 1)
            waiting = [asyncio.create_task(wait()) for _ in range(3)]
            await asyncio.sleep(0)
            waiting[0].cancel()
            waiting[1].cancel()
            gate.admission.leave(first)  # the place goes to the third, in whichever order this and the cancelling come
            await waiting[2]
            await asyncio.wait(waiting)
            assert [task.cancelled() for task in waiting] == [True, True, False]

    run(test)
    assert gate.loads[-1] == (0, 0, 0)


def test_a_closed_gate_lets_streams_end_and_nobody_in() -> None:
    gate = Gate(max_streams=1)

    async def test() -> None:
        with ExitStack() as stack:
            running, waiting = (stack.enter_context(gate.call()) for _ in range(2))
            await gate.admission.enter(running, 1)
            task = asyncio.create_task(gate.admission.enter(waiting, 1))
            await asyncio.sleep(0)
            gate.admission.close()
            with pytest.raises(Unavailable) as told:
                await task
            assert told.value.code == "draining"
            with pytest.raises(Unavailable):
                await gate.admission.enter(waiting, 1)
            drained = asyncio.create_task(gate.admission.drained())
            await asyncio.sleep(0.01)
            assert not drained.done()
        await drained

    run(test)
