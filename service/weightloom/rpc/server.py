"""The gRPC server, in the process and on the event loop of the REST front."""

from __future__ import annotations

import asyncio
import logging

import grpc.aio
from grpc_health.v1.health_pb2_grpc import add_HealthServicer_to_server
from grpc_reflection.v1alpha import reflection

from weightloom.engine import Engine
from weightloom.errors import Unavailable
from weightloom.rpc.guard import add_reflection
from weightloom.rpc.health import Health
from weightloom.rpc.service import SERVICE, FabricationService
from weightloom.settings import Settings
from weightloom.tls import read_tls

__all__ = ["RpcFront"]

# Messages somewhat longer than max_request_bytes are read, so that the answer can name the setting; gRPC itself refuses
# longer ones, unread.
READ_BEYOND_LIMIT = 1 << 20
CLIENT_PING_SECONDS = 10  # clients may ping so often; gRPC's own default of 300 drops those that watch for dead servers

log = logging.getLogger(__name__)


class RpcFront:
    """``start``, later ``drain`` and ``stop``, all on one event loop.

    shared_port: other processes listen on the same port (SO_REUSEPORT), and the kernel spreads connections over them.
    port: the port that is bound, known after ``start``.
    """

    def __init__(self, engine: Engine, settings: Settings, *, shared_port: bool = False) -> None:
        self._engine, self._settings, self._shared_port = engine, settings, shared_port
        self.port = settings.grpc_port
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Listen. Raises Unavailable where the port cannot be bound."""
        self._server = grpc.aio.server(options=_options(self._settings, self._shared_port))
        self._health = Health(self._engine, (SERVICE,))
        settings = self._settings
        limits = settings.max_request_bytes, settings.max_page, settings.max_factors_bytes
        FabricationService(self._engine, *limits).add_to(self._server)
        add_HealthServicer_to_server(self._health, self._server)
        names = (SERVICE, "grpc.health.v1.Health", reflection.SERVICE_NAME)
        add_reflection(self._engine, names, self._server)
        self.port = self._bind()
        await self._health.check()
        await self._server.start()
        self._tasks.append(asyncio.create_task(self._health.follow()))
        log.info("gRPC on %s://%s", "grpcs" if settings.tls_cert else "grpc", self._address(self.port))

    def drain(self) -> None:
        """Health says NOT_SERVING from now on; nothing else changes."""
        for task in self._tasks:
            task.cancel()
        self._tasks.append(asyncio.create_task(self._health.enter_graceful_shutdown()))

    async def stop(self, grace: float) -> None:
        """Take no new calls; those that run have ``grace`` seconds, and are cut then."""
        self.drain()
        await self._tasks[-1]
        self._health.end_watches()
        await self._server.stop(grace)

    def _bind(self) -> int:
        address = self._address(self.port)
        try:
            port: int = self._listen(address)
        except RuntimeError as error:
            message = f"gRPC cannot listen on {address} (settings host, grpc_port): {error}"
            raise Unavailable(message, code="port_unavailable") from error
        return port

    def _listen(self, address: str) -> int:
        tls = read_tls(self._settings)
        if tls is None:
            return self._server.add_insecure_port(address)  # type: ignore[no-any-return]
        pair, must_show = [(tls.key, tls.certificate)], tls.client_ca is not None
        credentials = grpc.ssl_server_credentials(pair, tls.client_ca, require_client_auth=must_show)
        return self._server.add_secure_port(address, credentials)  # type: ignore[no-any-return]

    def _address(self, port: int) -> str:
        host = self._settings.host
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _options(settings: Settings, shared_port: bool) -> list[tuple[str, int]]:
    milliseconds = settings.grpc_ping_seconds * 1000
    return [
        ("grpc.so_reuseport", int(shared_port)),  # on by default, when two servers share a port unnoticed
        ("grpc.max_concurrent_streams", settings.grpc_streams),
        ("grpc.max_receive_message_length", settings.max_request_bytes + READ_BEYOND_LIMIT),
        ("grpc.max_send_message_length", -1),
        ("grpc.keepalive_time_ms", milliseconds),
        ("grpc.keepalive_timeout_ms", milliseconds),
        ("grpc.http2.ping_timeout_ms", milliseconds),  # gRPC waits for the longer of the two
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),  # no end of them, however long a connection is idle
        ("grpc.http2.min_recv_ping_interval_without_data_ms", CLIENT_PING_SECONDS * 1000),
    ]
