"""One replica: an engine with the REST front and the gRPC calls over it, in a process that Ray starts and ends."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import ExitStack

import ray
from ray import serve
from ray.serve.grpc_util import RayServegRPCContext
from starlette.types import ASGIApp

from weightloom.main import ready_engine
from weightloom.ray import rpc
from weightloom.ray.http import mounted, use_tile_protocol
from weightloom.ray.requirements import check_environment, check_registry, replica_settings
from weightloom.ray.rpc import Received, Serialized
from weightloom.rest import build_app
from weightloom.rpc.service import FabricationService
from weightloom.telemetry import configure

__all__ = ["Weightloom"]

Messages = AsyncIterator[Received]


class Weightloom:
    """The deployment's class. Ray waits for what runs before it calls ``__del__``."""

    async def __init__(self) -> None:  # type: ignore[misc]  # Ray awaits it
        check_environment(os.environ)
        self._settings = settings = replica_settings()
        nodes = sum(node["Alive"] for node in ray.nodes())  # type: ignore[no-untyped-call]
        check_registry(settings, serve.get_replica_context().world_size, nodes)
        configure(settings)
        use_tile_protocol(settings)
        self._stack = ExitStack()
        self._engine = await asyncio.to_thread(self._stack.enter_context, ready_engine(settings))
        limits = settings.max_request_bytes, settings.max_page, settings.max_factors_bytes
        self._calls = FabricationService(self._engine, *limits)
        self._house_keeping = asyncio.create_task(self._engine.housekeeping.run())

    def __serve_build_asgi_app__(self) -> ASGIApp:
        return mounted(build_app(self._engine, self._settings))

    async def check_health(self) -> None:
        """Raises Unavailable where Ray should start another replica in this one's place.

        A registry that is gone is no reason: models that are known here are served without it, and another replica
        would know none.
        """
        await asyncio.to_thread(self._engine.check_device)

    async def __del__(self) -> None:
        if hasattr(self, "_house_keeping"):
            self._house_keeping.cancel()
            await self._engine.lifecycle.drain(0, 0)
            await asyncio.to_thread(self._stack.close)

    # The calls of the contract: Ray finds them by their names.

    async def Fabricate(  # noqa: N802
        self, messages: Messages, grpc_context: RayServegRPCContext
    ) -> AsyncGenerator[Serialized, None]:
        """FabricateRequest → FabricateChunks."""
        async for chunk in rpc.stream(self._calls.fabricate, messages, grpc_context):
            yield chunk

    async def CreateModel(self, messages: Messages, grpc_context: RayServegRPCContext) -> Serialized:  # noqa: N802
        """CreateModelRequest → Model."""
        return await rpc.unary(self._calls.create_model, messages, grpc_context)

    async def GetModel(self, messages: Messages, grpc_context: RayServegRPCContext) -> Serialized:  # noqa: N802
        """GetModelRequest → Model."""
        return await rpc.unary(self._calls.get_model, messages, grpc_context)

    async def ListModels(self, messages: Messages, grpc_context: RayServegRPCContext) -> Serialized:  # noqa: N802
        """ListModelsRequest → ListModelsResponse."""
        return await rpc.unary(self._calls.list_models, messages, grpc_context)

    async def DeleteModel(self, messages: Messages, grpc_context: RayServegRPCContext) -> Serialized:  # noqa: N802
        """DeleteModelRequest → Empty."""
        return await rpc.unary(self._calls.delete_model, messages, grpc_context)

    async def SetResidency(self, messages: Messages, grpc_context: RayServegRPCContext) -> Serialized:  # noqa: N802
        """SetResidencyRequest → Model."""
        return await rpc.unary(self._calls.set_residency, messages, grpc_context)

    async def GetFactors(self, messages: Messages, grpc_context: RayServegRPCContext) -> Serialized:  # noqa: N802
        """GetFactorsRequest → Factors."""
        return await rpc.unary(self._calls.get_factors, messages, grpc_context)

    async def PutFactors(self, messages: Messages, grpc_context: RayServegRPCContext) -> Serialized:  # noqa: N802
        """FactorsChunks → Factors."""
        return await rpc.unary(self._calls.put_factors, messages, grpc_context)
