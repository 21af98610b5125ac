"""The one gate: how many streams run, how many requests wait, and how many bytes they all may hold.

Over it a request is refused at once, with the time after which another try is worth it. Small requests, which are made
on the spot, need no place among the streams; health, metrics and the registry's calls do not come here at all.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque

from weightloom.engine.calls import Call
from weightloom.engine.limits import EngineLimits
from weightloom.engine.observer import Observer
from weightloom.errors import DeadlineExceeded, Overloaded, Unavailable

__all__ = ["Admission", "draining"]

LONGEST_RETRY_SECONDS = 60
WEIGHT_OF_LATEST = 0.1  # in the moving average of how long streams take


class Admission:
    """Counts for one event loop. What a call holds is given back by ``leave``, which the end of every call calls."""

    def __init__(self, limits: EngineLimits, observer: Observer) -> None:
        self._limits, self._observer = limits, observer
        self._queue: deque[tuple[Call, int, asyncio.Future[None]]] = deque()
        self._idle = asyncio.Event()
        self._idle.set()
        self._closed, self._mean_seconds = False, 1.0
        self.running = self.bytes_in_flight = 0

    @property
    def waiting(self) -> int:
        """Requests that wait for a place."""
        return len(self._queue)

    def hold(self, call: Call, size: int) -> None:
        """Count ``size`` bytes (a request's body) against ``max_bytes_in_flight``. Raises Overloaded."""
        if self.bytes_in_flight and self.bytes_in_flight + size > self._limits.max_bytes_in_flight:
            message = f"requests and streams hold {self.bytes_in_flight} bytes, this one would add {size}"
            limit = f"at most {self._limits.max_bytes_in_flight} (setting max_bytes_in_flight)"
            raise Overloaded(f"{message}, {limit}", code="too_many_bytes", retry_after=self._retry_after())
        self.count(call, size)

    def count(self, call: Call, size: int) -> None:
        """Count ``size`` bytes of a call that passes by the gate: they leave less room for others."""
        call.held += size
        self.bytes_in_flight += size

    def check_room(self, jobs: int) -> None:
        """Raise Overloaded where ``jobs``, which come before the gate, and those that wait at it fill the queue."""
        if jobs and jobs + len(self._queue) >= self._limits.max_queued:
            message = f"{jobs} requests are being read or planned and {len(self._queue)} wait (setting max_queued)"
            raise Overloaded(message, retry_after=self._retry_after())

    async def enter(self, call: Call, size: int) -> None:
        """Take a place among the streams for one that holds ``size`` bytes, or wait for it.

        Raises Overloaded where the queue is full, DeadlineExceeded where the wait is too long, Unavailable while the
        server is stopping.
        """
        if self._closed:
            raise draining()
        if not self._queue and self._fits(size):
            self._admit(call, size)
        elif len(self._queue) >= self._limits.max_queued:
            load = f"{self.running} streams run and {len(self._queue)} requests wait"
            raise Overloaded(f"{load} (settings max_streams and max_queued)", retry_after=self._retry_after())
        else:
            await self._wait(call, size)

    def leave(self, call: Call) -> None:
        """Give back whatever the call holds; the next in the queue may enter."""
        if call.entered is not None:
            seconds = time.perf_counter() - call.entered
            self._mean_seconds += WEIGHT_OF_LATEST * (seconds - self._mean_seconds)
            self.running -= 1
            call.entered = None
        elif not call.held:
            return
        self.bytes_in_flight -= call.held
        call.held = 0
        self._settle()

    def close(self) -> None:
        """Let nobody in any more; who waits is told that the server is stopping."""
        self._closed = True
        while self._queue:
            _, _, place = self._queue.popleft()
            if not place.done():
                place.set_exception(draining())

    async def drained(self) -> None:
        """Wait until no stream runs and nobody waits."""
        await self._idle.wait()

    def _fits(self, size: int) -> bool:
        """One stream may always run, so that no limit can be too small for all of them."""
        if not self.running:
            return True
        fits = self.bytes_in_flight + size <= self._limits.max_bytes_in_flight
        return fits and self.running < self._limits.max_streams

    def _settle(self) -> None:
        """Let in who fits now, and tell what is left."""
        while self._queue and self._fits(self._queue[0][1]):
            self._admit_first()
        if not self.running and not self._queue:
            self._idle.set()
        self._tell()

    def _admit(self, call: Call, size: int) -> None:
        call.entered, call.held = time.perf_counter(), call.held + size
        self.running += 1
        self.bytes_in_flight += size
        self._idle.clear()
        self._tell()

    def _admit_first(self) -> None:
        call, size, place = self._queue.popleft()
        if not place.done():  # else the client has gone while it waited
            self._admit(call, size)
            place.set_result(None)

    async def _wait(self, call: Call, size: int) -> None:
        patience, remaining = self._limits.max_queue_seconds, call.remaining  # raises where none is left
        place = asyncio.get_running_loop().create_future()
        mine = call, size, place
        self._queue.append(mine)
        self._idle.clear()
        self._tell()
        began = time.perf_counter()
        try:
            # (not wait_for: in Python 3.11 it can swallow that the client has gone)
            async with asyncio.timeout(patience if remaining is None else min(patience, remaining)):
                await place
        except TimeoutError:
            raise DeadlineExceeded("no place was free in time; see max_streams and max_queue_seconds") from None
        finally:
            call.queue += time.perf_counter() - began
            if mine in self._queue:
                self._queue.remove(mine)
                self._settle()

    def _retry_after(self) -> int:
        """Seconds until the queue should have moved by a place, from how long streams took lately."""
        seconds = self._mean_seconds * (len(self._queue) + 1) / self._limits.max_streams
        return min(LONGEST_RETRY_SECONDS, max(1, math.ceil(seconds)))

    def _tell(self) -> None:
        self._observer.load_changed(self.running, len(self._queue), self.bytes_in_flight)


def draining() -> Unavailable:
    """What is said to those who come while the server is stopping."""
    return Unavailable("the server is stopping; ask another replica, or this one when it is back", code="draining")
