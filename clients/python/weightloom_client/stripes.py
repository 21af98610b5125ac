"""One file over several streams at once: all replicas serve the same bits, so each can send another part of it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from contextvars import copy_context
from dataclasses import dataclass
from typing import Any

from weightloom_client.protocol import Transfer, Wanted
from weightloom_client.replicas import Replicas
from weightloom_client.stream import Stream

__all__ = ["STRIPE", "Stripes"]

STRIPE = 16 << 20  # bytes: a request costs a thousandth of it
PIECE = 1 << 20
PATIENCE = 0.2  # seconds for helpers to end by themselves, before what they lack is taken over

ReadInto = Callable[[memoryview], None]
Put = Callable[[int, ReadInto, int], None]
StreamOf = Callable[[int, int, int], Stream]


@dataclass(eq=False)
class Stripe:
    """Bytes ``at`` … ``stop - 1`` are to come, over ``stream``, unless another thread has taken them over."""

    at: int
    stop: int
    stream: Stream | None = None
    is_taken: bool = False


class Stripes:
    """The bytes ``start`` … ``stop - 1`` of a file, shared out: the first stream takes them from the front, where it
    reads on without a new request, and a helper with a stream of its own for each further one takes them from the back.
    What slow helpers still lack at the end is taken over from them.
    """

    def __init__(self, start: int, stop: int, size: int = STRIPE) -> None:
        self._front, self._back, self._size, self._lock = start, stop, size, threading.Lock()
        self._open, self._failure = set[Stripe](), list[BaseException]()

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

        def stream_of(offset: int, stop: int, shift: int) -> Stream:
            return Stream(replicas, wanted, Transfer(offset, stop, transfer.etag, shift), progress, shift)

        with self._ended():
            helpers = [_in_thread(self._help, stream_of, put, shift) for shift in range(1, replicas.streams)]
            while (stripe := self._next_front())[1]:
                put(stripe[0], first.read_into, stripe[1])
            wait(helpers, PATIENCE)
            while not self._failure and (left := self._take_over()):
                with stream_of(left.at, left.stop, 0) as stream:
                    put(left.at, stream.read_into, left.stop - left.at)
            if self._failure:
                raise self._failure[0]

    def _next_front(self) -> tuple[int, int]:
        """Offset and length of the first stripe that nobody has; length 0 where there is none."""
        with self._lock:
            start = self._front
            self._front = start if self._failure else min(self._back, start + self._size)
            return start, self._front - start

    def _next_back(self) -> Stripe | None:
        """Likewise, the last one."""
        with self._lock:
            if self._failure or self._front == self._back:
                return None
            stop, self._back = self._back, max(self._front, self._back - self._size)
            stripe = Stripe(self._back, stop)
            self._open.add(stripe)
            return stripe

    def _help(self, stream_of: StreamOf, put: Put, shift: int) -> None:
        while stripe := self._next_back():
            try:
                with stream_of(stripe.at, stripe.stop, shift) as stream:
                    self._read(stripe, stream, put)
            except BaseException as error:
                if not stripe.is_taken:
                    self._failure.append(error)
                    raise
            finally:
                with self._lock:
                    self._open.discard(stripe)

    def _read(self, stripe: Stripe, stream: Stream, put: Put) -> None:
        with self._lock:
            if stripe.is_taken:
                return
            stripe.stream = stream
        while stripe.at < stripe.stop:
            length = min(PIECE, stripe.stop - stripe.at)
            put(stripe.at, stream.read_into, length)
            stripe.at += length

    def _take_over(self) -> Stripe | None:
        """The rest of a helper's stripe, which is nobody else's when this returns; None where there is none."""
        while stripe := self._some_open():
            self._take(stripe)
            if stripe.at < stripe.stop:
                return stripe
        return None

    def _some_open(self) -> Stripe | None:
        with self._lock:
            return next(iter(self._open), None)

    def _take(self, stripe: Stripe) -> None:
        """Stop its helper. One that waits for a reply's head may wait on: it touches nothing any more."""
        with self._lock:
            stripe.is_taken = True
        if stripe.stream is not None:
            stripe.stream.abandon()
            while stripe in self._open and not stripe.stream.is_opening:
                time.sleep(0.001)
        with self._lock:
            self._open.discard(stripe)

    @contextmanager
    def _ended(self) -> Iterator[None]:
        """Where one fails, nobody begins another stripe, and nobody is left reading."""
        try:
            yield
        except BaseException as error:
            self._failure.append(error)
            while stripe := self._some_open():
                self._take(stripe)
            raise


def _in_thread(job: Callable[..., None], *given: Any) -> Future[None]:
    """A thread that nobody has to wait for, not even the end of the program."""
    result, context = Future[None](), copy_context()

    def run() -> None:
        try:
            result.set_result(context.run(job, *given))
        except BaseException as error:
            result.set_exception(error)

    threading.Thread(target=run, name="stripe", daemon=True).start()
    return result
