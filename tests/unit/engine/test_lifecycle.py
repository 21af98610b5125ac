"""Ready, draining, closed; and writes that wait their turn."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from weightloom.engine import Call, Engine, EngineLimits, Observer
from weightloom.engine.admission import Admission
from weightloom.engine.lifecycle import Lifecycle
from weightloom.engine.turns import Turns
from weightloom.errors import Unavailable
from weightloom.fabric import load_backend
from weightloom.fabric.device import Cpu
from weightloom.registry import SqliteRegistry

HOUR = 3600


def is_draining(call: object) -> bool:
    with pytest.raises(Unavailable) as caught:
        call()  # type: ignore[operator]
    return caught.value.code == "draining"


class Streams:
    """A gate, its life cycle, and streams that run for as long as their context is open."""

    def __init__(self) -> None:
        self.admission = Admission(EngineLimits(threads=1), Observer())
        self.lifecycle = Lifecycle(self.admission)

    @asynccontextmanager
    async def stream(self) -> AsyncIterator[None]:
        with Call(self.admission.leave, "rest", "fabricate") as call:
            await self.admission.enter(call, 1)
            yield


def test_streams_that_run_are_waited_for_and_new_ones_refused() -> None:
    async def scenario() -> None:
        streams = Streams()
        lifecycle = streams.lifecycle
        lifecycle.check_ready()
        async with streams.stream(), streams.stream():
            assert lifecycle.running == 2
            drained = asyncio.ensure_future(lifecycle.drain(0, HOUR))
            await asyncio.sleep(0.01)
            assert is_draining(lifecycle.check_ready)
            assert is_draining(lifecycle.check_accepting)
            with pytest.raises(Unavailable):
                await streams.stream().__aenter__()
            assert not drained.done()
        assert 0 < await drained < HOUR
        assert lifecycle.running == 0

    asyncio.run(scenario())


def test_for_a_moment_streams_are_still_taken() -> None:
    async def scenario() -> None:
        streams = Streams()
        drained = asyncio.ensure_future(streams.lifecycle.drain(0.05, HOUR))
        await asyncio.sleep(0)
        assert is_draining(streams.lifecycle.check_ready)
        async with streams.stream():
            await asyncio.sleep(0.1)
            assert is_draining(streams.lifecycle.check_accepting)
            assert not drained.done()
        await drained

    asyncio.run(scenario())


@pytest.mark.parametrize("moment", [0, HOUR])
def test_no_wait_is_longer_than_the_grace(moment: float) -> None:
    async def scenario() -> None:
        streams = Streams()
        async with streams.stream():
            assert await streams.lifecycle.drain(moment, 0.01) == 0
            assert is_draining(streams.lifecycle.check_accepting)

    asyncio.run(scenario())


def test_an_engine_that_drains_is_not_ready() -> None:
    engine = Engine(SqliteRegistry(None), Cpu(load_backend()), EngineLimits(threads=1))
    assert engine.check_ready() == {}
    asyncio.run(engine.lifecycle.drain(0, HOUR))
    assert is_draining(engine.check_ready)
    engine.close()


def test_a_call_that_hangs_holds_up_one_thread_and_those_behind_it_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("weightloom.engine.turns.WAIT_SECONDS", 0.05)
    hangs, release = threading.Event(), threading.Event()

    def hang() -> str:
        hangs.set()
        release.wait()
        return "done"

    async def scenario() -> None:
        turns = Turns()
        first = asyncio.ensure_future(turns.run(hang))
        try:
            await asyncio.to_thread(hangs.wait)
            behind = await asyncio.gather(*(turns.run(hang) for _ in range(100)), return_exceptions=True)
        finally:
            release.set()
        assert {str(error) for error in behind if isinstance(error, Unavailable)} == {str(behind[0])}
        assert "the registry is busy" in str(behind[0])
        assert await first == "done"
        assert await turns.run(hang) == "done"

    asyncio.run(scenario())
