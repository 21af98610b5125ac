"""The scheduler is fair, streams keep their window, and what is closed makes nothing more."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from weightloom.engine.buffers import TileBuffers
from weightloom.engine.tiles import TileScheduler, TileStream


@pytest.fixture
def scheduler() -> Iterator[TileScheduler]:
    made = TileScheduler(1)
    yield made
    made.close()


class SlowFile:
    """Sixteen-byte tiles that are made only when a permit is given."""

    def __init__(self, tiles: int = 100, *, fails_at: int | None = None) -> None:
        self.size, self.fails_at = 16 * tiles, fails_at
        self.made: list[int] = []
        self.permits = threading.Semaphore(0)

    def next_cut(self, offset: int, tile_bytes: int) -> int:
        return offset // 16 * 16 + 16

    def read_into(self, offset: int, out: Any) -> None:
        self.permits.acquire()
        if offset == self.fails_at:
            raise MemoryError("no room")
        self.made.append(offset)
        out[:] = offset // 16


def stream_of(file: Any, scheduler: TileScheduler, window: int = 3) -> TileStream:
    buffers = TileBuffers(4096, kept=2)
    return TileStream(file, 0, file.size, scheduler=scheduler, buffers=buffers, tile_bytes=4096, window=window)


def test_streams_take_turns(scheduler: TileScheduler) -> None:
    order: list[str] = []
    gate, done = threading.Event(), threading.Event()
    scheduler.submit("first", gate.wait)
    for stream, count in (("bulk", 5), ("small", 1), ("other", 2)):
        for _ in range(count):
            scheduler.submit(stream, lambda stream=stream: order.append(stream))  # type: ignore[misc]
    scheduler.submit("bulk", done.set)
    gate.set()
    assert done.wait(10)
    assert order == ["bulk", "small", "other", "bulk", "other", "bulk", "bulk", "bulk"]


def test_forgotten_jobs_are_not_begun(scheduler: TileScheduler) -> None:
    gate, done = threading.Event(), threading.Event()
    begun: list[int] = []
    scheduler.submit("first", gate.wait)
    scheduler.submit("gone", lambda: begun.append(1))
    scheduler.forget("gone")
    scheduler.submit("last", done.set)
    gate.set()
    assert done.wait(10)
    assert not begun
    assert scheduler.waiting == 0


def test_a_stream_gives_its_tiles_in_order_and_keeps_its_window(scheduler: TileScheduler) -> None:
    file = SlowFile()

    async def read() -> list[int]:
        stream, seen = stream_of(file, scheduler), []
        for number in range(20):
            file.permits.release(4)
            seen.append(bytes(await anext(stream))[0])
            assert len(stream._in_flight) <= 3
            assert max(file.made) // 16 <= number + 3
        stream.close()
        return seen

    assert asyncio.run(read()) == list(range(20))


def test_a_closed_stream_makes_nothing_more(scheduler: TileScheduler) -> None:
    file = SlowFile()

    async def read_one() -> None:
        stream = stream_of(file, scheduler)
        file.permits.release(1)
        await anext(stream)
        stream.close()
        file.permits.release(1)  # for the tile that is being made at this moment
        with pytest.raises(StopAsyncIteration):
            await anext(stream)

    asyncio.run(read_one())
    done = threading.Event()
    scheduler.submit("after", done.set)
    assert done.wait(10)
    assert len(file.made) <= 2


def test_an_error_on_a_worker_reaches_the_reader(scheduler: TileScheduler) -> None:
    file = SlowFile(fails_at=16)
    file.permits.release(10)

    async def read() -> None:
        stream = stream_of(file, scheduler)
        await anext(stream)
        with pytest.raises(MemoryError, match="no room"):
            await anext(stream)
        stream.close()

    asyncio.run(read())


def test_a_tile_is_read_only() -> None:
    scheduler = TileScheduler(1)
    file = SlowFile()
    file.permits.release(10)

    async def read() -> memoryview:
        stream = stream_of(file, scheduler)
        tile = await anext(stream)
        stream.close()
        return tile

    tile = asyncio.run(read())
    scheduler.close()
    assert tile.readonly
    assert not np.frombuffer(tile, np.uint8).flags.writeable
