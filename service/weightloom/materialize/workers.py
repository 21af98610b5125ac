"""Who makes the batches: processes on this machine. ``on_ray`` is the other one."""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Protocol

from weightloom.errors import Unavailable, WeightloomError
from weightloom.materialize.batches import Batch, Outcome, failure
from weightloom.materialize.maker import Maker, MakerOptions

__all__ = ["Processes", "Workers"]

AHEAD = 2  # batches that a worker has: the one it makes, and the next
STOP_SECONDS = 30.0
POLL_SECONDS = 0.2
MAX_LOST_STARTS = 3  # workers that die before they are ready, one after the other: none will work here
READY, STOP = "ready", "stop"
SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Workers(Protocol):
    """What makes batches."""

    def run(self, batches: Iterator[Batch], stop: threading.Event) -> Iterator[list[Outcome]]:
        """The outcomes of all batches, in any order, some at a time and now and then none. Raises Unavailable.

        From when ``stop`` is set nothing more is begun, and it ends with what has begun, or after ``STOP_SECONDS``.
        """


@dataclass(eq=False)
class _Worker:
    process: BaseProcess
    connection: Connection
    is_ready: bool = False
    batches: deque[Batch] = field(default_factory=deque)  # as they were sent


class Processes:
    """``count`` processes; one that dies is replaced."""

    def __init__(self, count: int, options: MakerOptions, maker: Callable[[MakerOptions], Maker] = Maker) -> None:
        self._count, self._options, self._maker, self._stop = count, options, maker, threading.Event()
        self._context = multiprocessing.get_context("spawn")  # a fork would take along threads and locks
        self._workers: list[_Worker] = []
        self._again: deque[Batch] = deque()
        self._lost_starts = 0  # in a row

    def run(self, batches: Iterator[Batch], stop: threading.Event) -> Iterator[list[Outcome]]:
        """See ``Workers.run``."""
        self._stop = stop
        try:
            self._workers = [self._started() for _ in range(self._count)]
            while self._hand_out(batches) and not self._stop.is_set():
                yield self._answers()
            yield from self._last_answers()
        finally:
            for worker in self._workers:
                worker.connection.close()
                worker.process.kill()
                worker.process.join()

    def _last_answers(self) -> Iterator[list[Outcome]]:
        """Of what has begun when all is to stop; batches that have not begun are answered with nothing."""
        end = time.monotonic() + STOP_SECONDS
        for worker in self._workers:
            _send(worker, STOP)
        while any(worker.batches for worker in self._workers) and time.monotonic() < end:
            yield self._answers()

    def _started(self) -> _Worker:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=_work, args=(theirs, self._options, self._maker), daemon=True)
        with _signals_blocked():
            process.start()
        theirs.close()
        return _Worker(process, ours)

    def _hand_out(self, batches: Iterator[Batch]) -> bool:
        """Give workers what they can take; False when nothing is left, and nothing is under way."""
        for most in range(1, AHEAD + 1):
            for worker in self._workers:
                if worker.is_ready and len(worker.batches) < most and not self._stop.is_set():
                    batch = self._again.popleft() if self._again else next(batches, None)
                    if batch is not None:
                        worker.batches.append(batch)
                        _send(worker, batch)
        return any(worker.batches or not worker.is_ready for worker in self._workers)

    def _answers(self) -> list[Outcome]:
        """What workers have answered within a moment."""
        outcomes: list[Outcome] = []
        by_connection: dict[Any, _Worker] = {worker.connection: worker for worker in self._workers}
        for connection in wait(list(by_connection), POLL_SECONDS):
            worker = by_connection[connection]
            try:
                answer = worker.connection.recv()
            except (EOFError, OSError):
                outcomes += self._replaced(worker)
                continue
            if isinstance(answer, WeightloomError):
                raise answer
            if answer == READY:
                worker.is_ready, self._lost_starts = True, 0
            else:
                worker.batches.popleft()
                outcomes += answer
        return outcomes

    def _replaced(self, worker: _Worker) -> list[Outcome]:
        """Another worker in its place. What it was at is tried once more, item by item, and fails at a second death."""
        worker.process.join()
        how = _ending(worker.process.exitcode)
        if not worker.is_ready:
            self._lost_starts += 1
            if self._lost_starts > MAX_LOST_STARTS or (worker.process.exitcode or 0) >= 0:  # it was not killed
                raise Unavailable(f"a worker process {how} before it was ready", code="worker_died")
        if self._stop.is_set():
            worker.batches.clear()
            return []
        self._workers[self._workers.index(worker)] = self._started()
        batch, *others = worker.batches or [Batch([], {})]
        self._again.extendleft(reversed(others))
        if batch.tries:
            error = Unavailable(f"the worker process that made it {how}, twice", code="worker_died")
            return [failure(item.row, item.file, error) for item in batch.items]
        self._again.extendleft(Batch([item], batch.specs, tries=1) for item in reversed(batch.items))
        return []


@contextmanager
def _signals_blocked() -> Iterator[None]:
    """A process that is started in here inherits this: Ctrl-C comes to all, and is the main one's to answer."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # or the first process starts it, which takes the block away again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _send(worker: _Worker, message: Batch | str) -> None:
    with suppress(OSError):  # it is dead: its end of the pipe says so, too, and is looked at next
        worker.connection.send(message)


def _ending(code: int | None) -> str:
    if code is None or code >= 0:
        return f"ended with exit code {code}"
    hint = " (out of memory?)" if -code == signal.SIGKILL else ""
    return f"was ended by {signal.Signals(-code).name}{hint}"


def _work(connection: Connection, options: MakerOptions, make: Callable[[MakerOptions], Maker]) -> None:
    """A worker process. It ends with the main one, whatever ends that."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    waiting: queue.SimpleQueue[Batch] = queue.SimpleQueue()
    stopping = threading.Event()
    threading.Thread(target=_receive, args=(connection, waiting, stopping), daemon=True).start()
    try:
        maker = make(options)
    except WeightloomError as error:
        connection.send(error)
        sys.exit(1)
    connection.send(READY)
    while True:
        batch = waiting.get()
        connection.send([] if stopping.is_set() else maker.make(batch))


def _receive(connection: Connection, waiting: queue.SimpleQueue[Batch], stopping: threading.Event) -> None:
    """Take in what comes, so that nobody waits to send; end the process when the main one is gone."""
    while True:
        try:
            message = connection.recv()
        except (EOFError, OSError):
            os._exit(0)
        if message == STOP:
            stopping.set()
        else:
            waiting.put(message)
