"""Streams that hand out the tiles of a file in order.

A stream keeps a small window of tiles in flight: enough to keep the workers busy while one tile is being sent, and the
bound on its memory. A reader that stops reading stops its window and nothing else.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Self

import numpy as np
import numpy.typing as npt

from weightloom.engine.scheduler import TileScheduler
from weightloom.fabric import VirtualFile
from weightloom.fabric.layout import TileKey, TileSize

__all__ = ["TileStream"]


class TileStream:
    """Bytes ``start`` … ``stop - 1`` of a file as memoryviews, one tile each: an asynchronous iterator.

    Use it from one event loop, and ``close`` it when it is not read to its end. queue: seconds until a worker took its
    first tile. compute: seconds of workers for all of its tiles, its share where a pass served others too.
    """

    def __init__(
        self, file: VirtualFile, start: int, stop: int, *, scheduler: TileScheduler, tile: TileSize, window: int
    ) -> None:
        self.file, self._next, self._stop = file, start, stop
        self._scheduler, self._tile, self._window = scheduler, tile, window
        self._in_flight: deque[asyncio.Future[memoryview]] = deque()
        self._loop = asyncio.get_running_loop()
        self._created, self._closed, self._began = time.perf_counter(), False, False
        self.queue = self.compute = 0.0

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> memoryview:
        self._fill_window()
        if not self._in_flight:
            raise StopAsyncIteration
        tile = await self._in_flight[0]
        self._in_flight.popleft()
        self._fill_window()
        return tile

    def close(self) -> None:
        """Make no further tiles."""
        self._closed = True
        self._scheduler.forget(self)
        for future in self._in_flight:
            future.cancel()
        self._in_flight.clear()

    def _fill_window(self) -> None:
        while not self._closed and self._next < self._stop and len(self._in_flight) < self._window:
            end = min(self._stop, self.file.next_cut(self._next, self._tile))
            if self._in_flight and self.file.must_prepare(self._next):
                return  # an h that takes long keeps one worker busy, and none waiting for it
            future: asyncio.Future[memoryview] = self._loop.create_future()
            self._in_flight.append(future)
            key = self.file.layout.tile_key(self._next, end)
            self._scheduler.submit(_Tile(self, self.file, self._next, end, key, future))
            self._next = end

    def began(self) -> None:
        """A worker has taken a tile."""
        if not self._began:
            self._began, self.queue = True, time.perf_counter() - self._created

    def report(self, result: Callable[[], None]) -> None:
        """Have the event loop set a future, from a worker."""
        try:
            self._loop.call_soon_threadsafe(result)
        except RuntimeError:
            self._closed = True  # the loop is gone, and its readers with it


@dataclass(eq=False, slots=True)
class _Tile:
    """See ``scheduler.Tile``; all but its creation happens on workers."""

    stream: TileStream
    file: VirtualFile
    start: int
    stop: int
    key: TileKey
    future: asyncio.Future[memoryview]

    def begin(self) -> None:
        """Note when the first one began."""
        self.stream.began()

    def deliver(self, data: npt.NDArray[np.uint8], seconds: float) -> None:
        """Hand over a read-only view."""
        self.stream.compute += seconds
        self.stream.report(partial(_deliver, self.future, data.data.toreadonly()))

    def fail(self, error: BaseException) -> None:
        """Have the reader raise it."""
        self.stream.report(partial(_fail, self.future, error))


def _deliver(future: asyncio.Future[memoryview], tile: memoryview) -> None:
    if not future.done():
        future.set_result(tile)


def _fail(future: asyncio.Future[memoryview], error: BaseException) -> None:
    if not future.done():
        future.set_exception(error)
