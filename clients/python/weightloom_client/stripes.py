"""One file from several replicas at once: they serve the same bits, so each can send another part of it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context

from weightloom_client.protocol import Transfer, Wanted
from weightloom_client.replicas import Replicas
from weightloom_client.stream import Stream

__all__ = ["STRIPE", "Stripes"]

STRIPE = 16 << 20  # bytes: a request costs a thousandth of it

Put = Callable[[int, Callable[[memoryview], None], int], None]


class Stripes:
    """The bytes ``start`` … ``stop - 1`` of a file, shared out: the first stream takes them from the front, where it
    reads on without a new request, and one helper for each further replica takes them from the back.
    """

    def __init__(self, start: int, stop: int, size: int = STRIPE) -> None:
        self.front, self._back, self._size, self._lock = start, stop, size, threading.Lock()
        self._over = False

    def next_front(self) -> tuple[int, int]:
        """Offset and length of the first stripe that nobody has; length 0 where there is none."""
        with self._lock:
            start = self.front
            self.front = start if self._over else min(self._back, start + self._size)
            return start, self.front - start

    def next_back(self) -> tuple[int, int]:
        """Likewise, of the last one."""
        with self._lock:
            stop = self._back
            self._back = stop if self._over else max(self.front, stop - self._size)
            return self._back, stop - self._back

    def receive(
        self,
        first: Stream,
        replicas: Replicas,
        wanted: Wanted,
        transfer: Transfer,
        put: Put,
        progress: Callable[[int], None],
    ) -> None:
        """Read everything. ``put(offset, read_into, length)`` is to call ``read_into`` with memory for the bytes at
        ``offset`` of the file, ``length`` in all, in as many views as it likes; from several threads at once.
        """

        def stream_of(offset: int, length: int, shift: int) -> Stream:
            part = Transfer(offset, offset + length, transfer.etag)
            return Stream(replicas, wanted, part, progress, shift)

        with ThreadPoolExecutor(max(1, len(replicas) - 1), thread_name_prefix="stripe") as pool, self._ended():
            jobs = [
                pool.submit(copy_context().run, self._help, stream_of, put, shift) for shift in range(1, len(replicas))
            ]
            while (stripe := self.next_front())[1]:
                put(stripe[0], first.read_into, stripe[1])
            for job in jobs:
                job.result()

    def _help(self, stream_of: Callable[[int, int, int], Stream], put: Put, shift: int) -> None:
        with self._ended():
            while (stripe := self.next_back())[1]:
                offset, length = stripe
                with stream_of(offset, length, shift) as stream:
                    put(offset, stream.read_into, length)

    @contextmanager
    def _ended(self) -> Iterator[None]:
        """Where one fails, nobody begins another stripe."""
        try:
            yield
        except BaseException:
            self._over = True
            raise
