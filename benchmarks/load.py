"""Clients of many connections, on raw sockets like those of client.py: one process, one epoll, one warm buffer."""

from __future__ import annotations

import multiprocessing
import select
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection
from typing import NamedTuple

from client import MEMORY, Request, answer_size, connect, receive

__all__ = ["Drained", "Load", "background_drain", "drain", "hammer", "hammer_all", "round_trips"]

HEADS = 4096  # bytes: more than the heads of HTTP and of the safetensors file take, so what comes after them is data


class Load(NamedTuple):
    """Answers per second over many connections, and the share of the time in which the client itself was busy."""

    per_second: float
    client_busy: float


class Drained(NamedTuple):
    """What ``drain`` received: bytes in all, its time and CPU time, and after how long each stream's data began."""

    size: int
    seconds: float
    cpu_seconds: float
    first_data: list[float]

    @property
    def per_second(self) -> float:
        """Bytes per second of all streams together."""
        return self.size / self.seconds


def hammer(request: Request, connections: int, seconds: float) -> Load:
    """Send the request over and over on ``connections`` kept alive, one at a time on each."""
    return hammer_all([request] * connections, seconds)


def hammer_all(requests: Sequence[Request], seconds: float) -> Load:
    """Send each request over and over on a connection of its own that is kept alive."""
    with _asked(requests) as (epoll, socks):
        asked = dict(zip(socks, requests, strict=True))
        began, began_cpu, answers = time.perf_counter(), time.process_time(), 0
        missing = dict.fromkeys(socks, 0)
        while (elapsed := time.perf_counter() - began) < seconds:
            for number, _ in epoll.poll():
                _step(socks[number], number, missing)
                if not missing[number]:
                    answers += 1
                    socks[number].sendall(asked[number].bytes)
        return Load(answers / elapsed, (time.process_time() - began_cpu) / elapsed)


def round_trips(request: Request, count: int) -> list[float]:
    """Seconds from sending a request to the end of its answer, ``count`` times on one connection kept alive."""
    seconds, missing = [], {0: 0}
    with connect(request) as sock:
        for _ in range(count):
            began = time.perf_counter()
            sock.sendall(request.bytes)
            _step(sock, 0, missing)
            while missing[0]:
                _step(sock, 0, missing)
            seconds.append(time.perf_counter() - began)
    return seconds


def drain(requests: Sequence[Request], control: Connection | None = None) -> Drained:
    """Ask for all bodies at once, and receive each as fast as its socket gives it.

    With ``control``: send True through it when all of them flow, and hang up when a word comes back.
    """
    began, began_cpu, told = time.perf_counter(), time.process_time(), False
    with _asked(requests) as (epoll, socks):
        bodies = _Bodies(epoll, socks, began)
        if control is not None:
            epoll.register(control, select.EPOLLIN)
        while bodies.missing and bodies.receive():
            if control is not None and not told and len(bodies.first_data) == len(requests):
                control.send(True)
                told = True
        return bodies.drained(time.process_time() - began_cpu)


@contextmanager
def background_drain(requests: Sequence[Request]) -> Iterator[Callable[[], Drained]]:
    """Drain in another process, from now (all bodies flow) until the function that is given is called."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_drain_and_tell, args=(requests, theirs))
    process.start()
    theirs.close()
    try:
        ours.recv()

        def end() -> Drained:
            ours.send(True)
            drained: Drained = ours.recv()
            return drained

        yield end
    finally:
        process.kill()
        process.join()


def _drain_and_tell(requests: Sequence[Request], control: Connection) -> None:
    control.send(drain(requests, control))


class _Bodies:
    """Answers under way, by the number of their socket."""

    def __init__(self, epoll: select.epoll, socks: dict[int, socket.socket], began: float) -> None:
        self._epoll, self._socks, self._began = epoll, socks, began
        self.missing = dict.fromkeys(socks, 0)
        self.first_data: dict[int, float] = {}
        self._received = dict.fromkeys(socks, 0)

    def receive(self) -> bool:
        """Receive what is there; False where something else than a body is."""
        for number, _ in self._epoll.poll():
            if number not in self.missing:
                return False
            self._received[number] += _step(self._socks[number], number, self.missing)
            if number not in self.first_data and self._received[number] > HEADS:
                self.first_data[number] = time.perf_counter() - self._began
            if not self.missing[number]:
                self._epoll.unregister(number)
                del self.missing[number]
        return True

    def drained(self, cpu_seconds: float) -> Drained:
        """The sum."""
        seconds = time.perf_counter() - self._began
        return Drained(sum(self._received.values()), seconds, cpu_seconds, list(self.first_data.values()))


@contextmanager
def _asked(requests: Sequence[Request]) -> Iterator[tuple[select.epoll, dict[int, socket.socket]]]:
    """A connection for each request, which is sent."""
    with ExitStack() as stack:
        opened = [stack.enter_context(connect(request)) for request in requests]
        epoll = stack.enter_context(select.epoll())
        for sock, request in zip(opened, requests, strict=True):
            epoll.register(sock, select.EPOLLIN)
            sock.sendall(request.bytes)
        yield epoll, {sock.fileno(): sock for sock in opened}


def _step(sock: socket.socket, number: int, missing: dict[int, int]) -> int:
    """Receive what is there: how many bytes. ``missing`` counts what is left of the answer; 0 before and after it."""
    count = receive(sock)
    missing[number] = (missing[number] or answer_size(MEMORY, count)) - count
    return count
