"""Tiles to a reader: each within its time, so that nobody who stalls, or comes too late, holds anything."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable

from weightloom.engine.calls import Call
from weightloom.errors import DeadlineExceeded

__all__ = ["deliver", "deliver_one"]

Write = Callable[[memoryview], Awaitable[None]]


async def deliver(tiles: AsyncIterator[memoryview], write: Write, call: Call, stall_seconds: float) -> None:
    """``write`` all tiles, and an empty one where there is none.

    Raises DeadlineExceeded when the call's deadline has passed, or when one tile takes longer than ``stall_seconds``.
    """
    async with call.in_time():
        await _write(write, await anext(tiles, memoryview(b"")), call, stall_seconds)
        async for tile in tiles:
            await asyncio.sleep(0)  # write() mostly returns without yielding, and other requests would starve
            await _write(write, tile, call, stall_seconds)


async def deliver_one(tile: memoryview, write: Write, call: Call, stall_seconds: float) -> None:
    """``deliver`` for a reply that is there already, whole."""
    call.remaining  # noqa: B018  (raises where the deadline has passed)
    await _write(write, tile, call, stall_seconds)


async def _write(write: Write, tile: memoryview, call: Call, stall_seconds: float) -> None:
    began, patience = time.perf_counter(), asyncio.timeout(stall_seconds)
    try:
        async with patience:
            await write(tile)
    except TimeoutError:
        if not patience.expired():
            raise
        message = f"not one tile was taken within {stall_seconds:g} s (setting stall_seconds)"
        raise DeadlineExceeded(message, code="reader_stalled") from None
    call.send += time.perf_counter() - began
    call.sent_bytes += len(tile)
