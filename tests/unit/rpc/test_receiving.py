"""Places for messages on their way: who leaves, at whatever moment, takes none along."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

import pytest
from weightloom.errors import Overloaded
from weightloom.rpc.receiving import Receiving


def run(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 60))  # type: ignore[arg-type]


async def take(receiving: Receiving, *callers: str) -> AsyncExitStack:
    """A place for each; close it to give them back."""
    held = AsyncExitStack()
    for caller in callers:
        await held.enter_async_context(receiving.place(caller))
    return held


async def waiting(receiving: Receiving, caller: str) -> asyncio.Task[AsyncExitStack]:
    task = asyncio.create_task(take(receiving, caller))
    await asyncio.sleep(0)
    assert not task.done()
    return task


@pytest.mark.parametrize("holders", [("a", "a"), ("b", "b", "c", "c")], ids=["own", "all"])
def test_who_is_cancelled_while_he_waits_takes_no_place_along(holders: tuple[str, ...]) -> None:
    async def test() -> None:
        receiving = Receiving(4, 60)
        held = await take(receiving, *holders)
        for _ in range(5):
            task = await waiting(receiving, "a")
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        await held.aclose()
        await (await take(receiving, "a", "a", "b", "b")).aclose()
        del held, task
        await asyncio.sleep(0.01)  # the loop and tracebacks have them for a moment yet
        gc.collect()
        assert not receiving._own, "callers that are gone are forgotten"

    run(test)


def test_who_is_cancelled_at_the_very_moment_of_his_turn_gives_it_to_the_next() -> None:
    async def test() -> None:
        receiving = Receiving(2, 60)
        held = await take(receiving, "b", "c")
        first, second = await waiting(receiving, "a"), await waiting(receiving, "d")
        await held.aclose()
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        await (await second).aclose()
        await (await take(receiving, "a", "b")).aclose()

    run(test)


def test_who_waited_too_long_is_told_and_leaves_no_trace() -> None:
    async def test() -> None:
        receiving = Receiving(2, 0)
        held = await take(receiving, "a")
        with pytest.raises(Overloaded, match="max_queue_seconds"):
            await take(receiving, "a")
        await held.aclose()
        await (await take(receiving, "a", "b")).aclose()

    run(test)
