"""grpc.health.v1: SERVING for as long as the engine is ready, NOT_SERVING from the moment the server is to stop."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import Any

from grpc_health.v1.health import aio as health_aio
from grpc_health.v1.health_pb2 import HealthCheckResponse

from weightloom.engine import Engine
from weightloom.errors import Unavailable

__all__ = ["Health"]

INTERVAL = 1.0  # seconds between two checks

log = logging.getLogger(__name__)


class Health(health_aio.HealthServicer):  # type: ignore[misc]
    """The standard servicer, told once a second by ``follow`` whether the engine is ready."""

    def __init__(self, engine: Engine, services: tuple[str, ...]) -> None:
        super().__init__()
        self._engine, self._services = engine, ("", *services)
        self._reason: str | None = None
        self._watches: set[asyncio.Timeout] = set()

    async def Watch(self, request: Any, context: Any) -> None:  # noqa: N802 (the contract's name)
        """The standard watch, except that it ends with the server instead of keeping it for the whole grace."""
        with suppress(TimeoutError):
            async with asyncio.timeout(None) as watch:
                self._watches.add(watch)
                try:
                    await super().Watch(request, context)
                finally:
                    self._watches.discard(watch)

    def end_watches(self) -> None:
        """End all watches that run, with the status OK."""
        while self._watches:
            self._watches.pop().reschedule(asyncio.get_running_loop().time())

    async def follow(self) -> None:
        """Tell the engine's state again and again, until cancelled."""
        while True:
            await self.check()
            await asyncio.sleep(INTERVAL)

    async def check(self) -> None:
        """Tell the engine's state once; a change is logged."""
        reason = await asyncio.to_thread(self._why_not)
        if reason != self._reason:
            log.log(logging.WARNING if reason else logging.INFO, "gRPC health: %s", reason or "serving again")
        self._reason = reason
        for service in self._services:
            await self.set(service, HealthCheckResponse.NOT_SERVING if reason else HealthCheckResponse.SERVING)

    def _why_not(self) -> str | None:
        try:
            self._engine.check_ready()
        except Unavailable as error:
            return f"not serving: {error}"
        except Exception:
            log.exception("the check of readiness failed for a reason that no error class covers")
            return "not serving: the check failed"
        return None
