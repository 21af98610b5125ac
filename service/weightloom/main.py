"""Builds the engine and the fronts over it, and serves: in this process, or in workers."""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
from collections.abc import Callable

from weightloom.engine import Engine
from weightloom.engine.known_answer import check_known_answer
from weightloom.fabric import load_backend
from weightloom.ports import reserve_port, url_of
from weightloom.process import Front, Process
from weightloom.registry import SqliteRegistry
from weightloom.settings import Settings
from weightloom.supervisor import supervise

__all__ = ["build_engine", "run", "serve", "start_logging"]

log = logging.getLogger("weightloom")
LOG_LINE = "%(asctime)s %(levelname)s [%(process)d] %(name)s: %(message)s"


def build_engine(settings: Settings) -> Engine:
    """The engine that the settings describe. Raises Unavailable where the registry cannot be opened."""
    backend = load_backend(settings.backend)
    return Engine(SqliteRegistry(settings.registry_path), backend, settings.engine_limits)


def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT; running streams then have ``shutdown_seconds`` to end.

    Raises Unavailable and OSError where that cannot begin; exits with a code where it ends badly.
    """
    start_logging(settings)
    listener = reserve_port(settings.host, settings.port)
    url = url_of(listener)
    if settings.workers > 1:
        supervise(settings, listener, lambda: log.info("serving %s (%d workers)", url, settings.workers))
    else:
        run(settings, listener, lambda: log.info("serving %s", url))


def start_logging(settings: Settings) -> None:
    """Log lines of this process go to stderr."""
    logging.basicConfig(level=settings.log_level.upper(), format=LOG_LINE)


def run(settings: Settings, listener: socket.socket, on_ready: Callable[[], None], lifeline: int | None = None) -> None:
    """Serve in this process. The end of ``lifeline``, a pipe, means what SIGTERM does."""
    engine = build_engine(settings)
    try:
        log.info("backend %s makes the known answer (the very first start compiles the kernels)", engine.backend.NAME)
        check_known_answer(engine.backend)
        log.info("the known answer is right; %d threads", settings.threads)
        fronts: list[Front] = []
        process = Process(engine, settings, fronts, on_ready)
        with asyncio.Runner(loop_factory=process.loop_factory) as runner:
            exit_code = runner.run(process.serve(listener, lifeline))
    finally:
        engine.close()
    if exit_code:
        sys.exit(exit_code)
