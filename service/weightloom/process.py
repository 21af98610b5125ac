"""One serving process: its fronts, its signals, and its end."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

import uvicorn
from starlette.types import ASGIApp

from weightloom.engine import Engine
from weightloom.ports import listen
from weightloom.rest import build_app
from weightloom.rest.transport import HeadLimits, tile_protocol
from weightloom.settings import Settings

__all__ = ["Front", "Process"]

log = logging.getLogger(__name__)
SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Front(Protocol):
    """A way in beside REST. It lives in the same event loop, and its streams count in ``engine.lifecycle``."""

    async def start(self) -> None:
        """Listen. Raises Unavailable where that cannot be."""

    def drain(self) -> None:
        """Say from now on that the server is not ready; go on serving."""

    async def stop(self, grace: float) -> None:
        """Listen no more, wait up to ``grace`` seconds for what runs, and cut the rest."""


class Process:
    """Serves until SIGTERM or SIGINT, finishes what runs, and ends at once at a second signal."""

    def __init__(
        self, engine: Engine, settings: Settings, fronts: Sequence[Front], on_ready: Callable[[], None]
    ) -> None:
        self._engine, self._settings, self._fronts = engine, settings, fronts
        self._rest = _Rest(_config(build_app(engine, settings), settings), on_ready)
        self.loop_factory = self._rest.config.get_loop_factory()
        self._drain: asyncio.Task[None] | None = None
        self._signals: list[int] = []
        self._ends = 0.0

    async def serve(self, listener: socket.socket, lifeline: int | None) -> int:
        """Until the end: the exit code. What is left of ``lifeline`` when it ends means a stop too."""
        self._task = asyncio.current_task()
        with self._listening_to_signals(), _watching(lifeline, self._begin_to_drain):
            try:
                await self._serve_all(listener)
            except asyncio.CancelledError:
                if len(self._signals) < 2:
                    raise
                return 128 + self._signals[-1]
        return 0

    async def _serve_all(self, listener: socket.socket) -> None:
        listen(listener, self._rest.config.backlog)  # first: the port of gRPC would be shared with another server
        for front in self._fronts:
            await front.start()
        house_keeping = asyncio.ensure_future(self._engine.housekeeping.run())
        try:
            await self._rest.serve(sockets=[listener])
        except asyncio.CancelledError:
            self._ends = 0.0
            raise
        finally:
            house_keeping.cancel()
            for front in self._fronts:
                await front.stop(max(0.0, self._ends - asyncio.get_running_loop().time()))

    @contextmanager
    def _listening_to_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in SIGNALS:
            signal.signal(number, lambda number, _: loop.call_soon_threadsafe(self._on_signal, number))
        try:
            yield
        finally:
            for number in SIGNALS:
                signal.signal(number, signal.SIG_IGN)  # nothing is left that could be cut short

    def _on_signal(self, number: int) -> None:
        self._signals.append(number)  # the end of the lifeline is none: some send a signal to supervisor and workers
        self._begin_to_drain()
        if len(self._signals) > 1 and self._task is not None:
            self._task.cancel()

    def _begin_to_drain(self) -> None:
        if self._drain is None:
            self._drain = asyncio.ensure_future(self._drain_all())

    async def _drain_all(self) -> None:
        grace = self._settings.shutdown_seconds
        self._ends = asyncio.get_running_loop().time() + grace
        log.info("stopping: %d streams have %d s to end", self._engine.lifecycle.running, grace)
        for front in self._fronts:
            front.drain()
        self._rest.stop(await self._engine.lifecycle.drain(self._settings.drain_seconds, grace))


class _Rest(uvicorn.Server):
    """uvicorn, which leaves signals to ``Process`` and tells when it listens."""

    def __init__(self, config: uvicorn.Config, on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_ready = on_ready
        logging.getLogger("uvicorn.error").addFilter(_is_no_cut_stream)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_ready()

    def stop(self, grace: float) -> None:
        """Listen no more, and wait ``grace`` seconds for what is in the buffers of connections."""
        self.config.timeout_graceful_shutdown = grace  # type: ignore[assignment]  # a part of a second is as good
        self.should_exit = True


def _is_no_cut_stream(record: logging.LogRecord) -> bool:
    """uvicorn says in one line how many streams it cuts; their tracebacks say nothing more."""
    return not record.exc_info or record.exc_info[0] is not asyncio.CancelledError


def _config(app: ASGIApp, settings: Settings) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=tile_protocol(settings.stall_seconds, HeadLimits(settings.max_header_bytes, settings.header_seconds)),
        ws="none",
        timeout_keep_alive=settings.keep_alive_seconds,
        log_level=settings.log_level,
        log_config=None,
        access_log=False,  # telemetry has one for both fronts
        lifespan="off",  # nothing to start or end there
        server_header=False,
        proxy_headers=False,  # nothing here depends on who asks
        ssl_certfile=settings.tls_cert,
        ssl_keyfile=settings.tls_key,
    )


@contextmanager
def _watching(pipe: int | None, on_end: Callable[[], None]) -> Iterator[None]:
    """Call ``on_end`` when the other end of ``pipe`` is closed, be it by intent or because its process is gone."""
    if pipe is None:
        yield
        return
    loop = asyncio.get_running_loop()

    def read() -> None:
        if not os.read(pipe, 1024):
            loop.remove_reader(pipe)
            on_end()

    loop.add_reader(pipe, read)
    try:
        yield
    finally:
        loop.remove_reader(pipe)
