"""API keys at the gRPC front: where a call brings one, and the reflection service, which is no call of ours."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Mapping, Sequence
from typing import Any

import grpc.aio
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

from weightloom.engine import Call, Engine
from weightloom.engine.keys import bearer
from weightloom.errors import WeightloomError
from weightloom.rpc.status import status_of

__all__ = ["add_reflection", "token_of"]


def token_of(metadata: Mapping[str, Any]) -> str:
    """The bearer's token, or ""."""
    return bearer(str(metadata.get("authorization", "")))


def add_reflection(engine: Engine, names: Sequence[str], server: grpc.aio.Server) -> None:
    """Show the contract, to those that have a key where one is needed."""
    reflection_pb2_grpc.add_ServerReflectionServicer_to_server(_Reflection(engine, names), server)


class _Reflection(reflection.aio.ReflectionServicer):  # type: ignore[misc]
    def __init__(self, engine: Engine, names: Sequence[str]) -> None:
        super().__init__(names)
        self._engine = engine

    async def ServerReflectionInfo(  # noqa: N802
        self, request_iterator: AsyncIterable[Any], context: grpc.aio.ServicerContext
    ) -> AsyncIterator[Any]:
        try:
            call = Call(lambda ended: None, "grpc", "reflection")
            self._engine.keys.admit(call, token_of(dict(context.invocation_metadata())))
        except WeightloomError as error:
            await context.abort_with_status(status_of(error))
        async for reply in super().ServerReflectionInfo(request_iterator, context):
            yield reply
