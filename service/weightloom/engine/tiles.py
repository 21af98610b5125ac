"""Worker threads that make tiles, fairly between streams, and streams that hand them out in file order.

A stream keeps a small window of tiles in flight: enough to keep the workers busy while one tile is being sent, and
the bound on its memory. A reader that stops reading stops its window and nothing else.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections import OrderedDict, deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Self

from weightloom.engine.buffers import TileBuffers
from weightloom.fabric import VirtualFile

__all__ = ["TileScheduler", "TileStream"]

WORKER_NICENESS = 5
Job = Callable[[], None]


class TileScheduler:
    """``threads`` workers that take one job at a time from each stream in turn, so that none waits behind another."""

    def __init__(self, threads: int) -> None:
        self._queues: OrderedDict[object, deque[Job]] = OrderedDict()
        self._changed = threading.Condition()
        self._closed = False
        self._threads = [
            threading.Thread(target=self._work, name=f"tile-worker-{i}", daemon=True) for i in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, stream: object, job: Job) -> None:
        """Queue a job of ``stream``. A job reports its own errors."""
        with self._changed:
            self._queues.setdefault(stream, deque()).append(job)
            self._changed.notify()

    def forget(self, stream: object) -> None:
        """Drop the jobs of a stream that have not begun."""
        with self._changed:
            self._queues.pop(stream, None)

    @property
    def waiting(self) -> int:
        """Jobs that have not begun."""
        with self._changed:
            return sum(map(len, self._queues.values()))

    def close(self) -> None:
        """Stop the workers after the jobs they are at."""
        with self._changed:
            self._closed = True
            self._queues.clear()
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        _yield_to_other_threads()
        while (job := self._next()) is not None:
            job()
            del job  # or the tile's memory would stay taken until the next job comes

    def _next(self) -> Job | None:
        with self._changed:
            self._changed.wait_for(lambda: self._closed or bool(self._queues))
            if self._closed:
                return None
            stream, queue = self._queues.popitem(last=False)
            job = queue.popleft()
            if queue:
                self._queues[stream] = queue  # to the end of the round
            return job


def _yield_to_other_threads() -> None:
    """Let the event loop have the core at once when it has something to send or to answer, where the system allows."""
    if sys.platform == "linux":  # there a niceness belongs to a thread, elsewhere to the process
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), WORKER_NICENESS)


class TileStream:
    """Bytes ``start`` … ``stop - 1`` of a file as memoryviews, one tile each: an asynchronous iterator.

    Use it from one event loop, and ``close`` it when it is not read to its end.
    """

    def __init__(
        self,
        file: VirtualFile,
        start: int,
        stop: int,
        *,
        scheduler: TileScheduler,
        buffers: TileBuffers,
        tile_bytes: int,
        window: int,
    ) -> None:
        self._file, self._next, self._stop = file, start, stop
        self._scheduler, self._buffers = scheduler, buffers
        self._tile_bytes, self._window = tile_bytes, window
        self._in_flight: deque[asyncio.Future[memoryview]] = deque()
        self._loop = asyncio.get_running_loop()
        self._closed = False

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
            end = min(self._stop, self._file.next_cut(self._next, self._tile_bytes))
            future: asyncio.Future[memoryview] = self._loop.create_future()
            self._in_flight.append(future)
            self._scheduler.submit(self, partial(self._make, self._next, end, future))
            self._next = end

    def _make(self, start: int, end: int, future: asyncio.Future[memoryview]) -> None:
        """Runs on a worker."""
        if self._closed:
            return
        try:
            tile = self._buffers.take(end - start)
            self._file.read_into(start, tile)
            report = partial(_deliver, future, tile.data.toreadonly())
        except BaseException as error:
            report = partial(_fail, future, error)
        try:
            self._loop.call_soon_threadsafe(report)
        except RuntimeError:
            self._closed = True  # the loop is gone, and its readers with it


def _deliver(future: asyncio.Future[memoryview], tile: memoryview) -> None:
    if not future.done():
        future.set_result(tile)


def _fail(future: asyncio.Future[memoryview], error: BaseException) -> None:
    if not future.done():
        future.set_exception(error)
