"""Builds the engine, starts the fronts, owns the process."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager

import uvicorn
from starlette.types import ASGIApp

from weightloom.engine import Engine, Observer
from weightloom.engine.known_answer import check_known_answer
from weightloom.fabric import load_backend
from weightloom.registry import SqliteRegistry
from weightloom.rest import build_app
from weightloom.rest.problems import ROUTING_CODES
from weightloom.rest.transport import tile_protocol
from weightloom.rpc import RpcFront
from weightloom.settings import Settings
from weightloom.telemetry import configure, observing

__all__ = ["build_engine", "serve"]

log = logging.getLogger("weightloom")


def build_engine(settings: Settings, observer: Observer | None = None) -> Engine:
    """The engine that the settings describe. Raises Unavailable where the registry cannot be opened."""
    backend = load_backend(settings.backend)
    return Engine(SqliteRegistry(settings.registry_path), backend, settings.engine_limits, observer)


def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT; running streams then have ``shutdown_seconds`` to end."""
    configure(settings)
    with observing(settings, ROUTING_CODES.values()) as observer, closing(build_engine(settings, observer)) as engine:
        log.info("backend %s makes the known answer (the very first start compiles the kernels)", engine.backend.NAME)
        check_known_answer(engine.backend)
        log.info("the known answer is right; %d threads", settings.threads)
        _Server(_config(build_app(engine, settings), settings), RpcFront(engine, settings)).run()


class _Server(uvicorn.Server):
    """uvicorn and beside it gRPC; being told to stop is a good end (uvicorn itself raises the signal again)."""

    def __init__(self, config: uvicorn.Config, rpc: RpcFront) -> None:
        super().__init__(config)
        self._rpc = rpc

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """gRPC first, so that whoever finds REST ready finds both; uvicorn exits where it cannot listen."""
        await self._rpc.start()
        try:
            await super().startup(sockets)
        except SystemExit:
            await self._rpc.stop(0)
            raise

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Both within one grace."""
        grace = self.config.timeout_graceful_shutdown or 0
        await asyncio.gather(super().shutdown(sockets), self._rpc.stop(grace))

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self.handle_exit)
        yield


def _config(app: ASGIApp, settings: Settings) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=tile_protocol(settings.stall_seconds),
        ws="none",
        host=settings.host,
        port=settings.port,
        log_level=settings.log_level,
        log_config=None,
        access_log=False,  # telemetry has one for both fronts
        timeout_graceful_shutdown=settings.shutdown_seconds,
        server_header=False,
        proxy_headers=False,  # nothing here depends on who asks
    )
