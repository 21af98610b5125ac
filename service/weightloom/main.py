"""Builds the engine and the fronts over it, and serves: in this process, or in workers."""

from __future__ import annotations

import asyncio
import gc
import logging
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

from weightloom.engine import Engine, Observer
from weightloom.engine.known_answer import check_known_answer
from weightloom.fabric.device import open_device
from weightloom.ports import reserve_port, url_of
from weightloom.process import Process
from weightloom.registry import open_registry
from weightloom.rest.problems import ROUTING_CODES
from weightloom.rpc import RpcFront
from weightloom.settings import Settings
from weightloom.supervisor import supervise
from weightloom.telemetry import configure, observing
from weightloom.tls import read_tls

__all__ = ["build_engine", "ready_engine", "run", "serve"]

log = logging.getLogger("weightloom")


def build_engine(settings: Settings, observer: Observer | None = None) -> Engine:
    """The engine that the settings describe. Raises Unavailable where the registry cannot be opened."""
    device = open_device(
        settings.device,
        settings.backend,
        gpu_factor_bytes=settings.gpu_factor_bytes,
        gpu_share=1 / settings.workers,
        gpu_fallback=settings.gpu_fallback,
    )
    registry = open_registry(settings.registry_url, settings.data_dir)
    return Engine(registry, device, settings.engine_limits(device), observer)


def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT; running streams then have ``shutdown_seconds`` to end.

    Raises Unavailable and OSError where that cannot begin; exits with a code where it ends badly.
    """
    configure(settings)
    _raise_descriptor_limit()
    tls = read_tls(settings)
    listener = reserve_port(settings.host, settings.port)
    grpc = _reserve_shared_port(settings.host, settings.grpc_port)
    settings = settings.model_copy(update={"grpc_port": grpc.getsockname()[1]})
    url = url_of(listener, "https" if tls else "http")
    with grpc:
        if settings.workers > 1:
            supervise(settings, listener, lambda: log.info("serving %s (%d workers)", url, settings.workers))
        else:
            run(settings, listener, lambda: log.info("serving %s", url))


def _raise_descriptor_limit() -> None:
    """As many connections as the system permits: the soft limit of 1024 is a default for programs that use select."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    except (ValueError, OSError) as error:  # macOS has a lower one for what it says is unlimited
        log.warning("the limit of open files stays as it is: %s", error)
        return
    log.info("at most %d files and connections (the system's limit; raise it with ulimit -n)", most)


def _reserve_shared_port(host: str, port: int) -> socket.socket:
    """For gRPC, which binds for itself, in each worker. Another server that listens there already is noticed."""
    with reserve_port(host, port) as alone:
        port = alone.getsockname()[1]
    return reserve_port(host, port, shared=True)


def run(settings: Settings, listener: socket.socket, on_ready: Callable[[], None], lifeline: int | None = None) -> None:
    """Serve in this process. The end of ``lifeline``, a pipe, means what SIGTERM does."""
    with ready_engine(settings) as engine:
        process = Process(engine, settings, [RpcFront(engine, settings, shared_port=True)], on_ready)
        with asyncio.Runner(loop_factory=process.loop_factory) as runner:
            exit_code = runner.run(process.serve(listener, lifeline))
    if exit_code:
        sys.exit(exit_code)


@contextmanager
def ready_engine(settings: Settings) -> Iterator[Engine]:
    """The engine that the settings describe, with all that must be so before a front may serve; closed at the end.

    Raises Unavailable where the registry cannot be opened, nobody could be let in, or the known answer comes out wrong.
    """
    with observing(settings, ROUTING_CODES.values()) as observer, closing(build_engine(settings, observer)) as engine:
        engine.keys.check_start(settings.host)
        if not engine.keys.is_needed:
            log.info("no API key is asked for (insecure_no_auth, or on this machine alone and none was made)")
        log.info("device %s makes the known answer (the very first start compiles the kernels)", engine.device.name)
        check_known_answer(engine.device)
        log.info("the known answer is right; %d threads", settings.threads)
        gc.freeze()  # what is there now stays; the collector need not look at it again and again
        yield engine
