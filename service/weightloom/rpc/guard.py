"""API keys at the gRPC front: where a call brings one, and the reflection service, which is no call of ours."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import grpc
import grpc.aio

from weightloom.engine import Call, Engine
from weightloom.errors import WeightloomError
from weightloom.rpc.status import status_of

__all__ = ["ReflectionGuard", "token_of"]

Handler = Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler]]


def token_of(metadata: Mapping[str, Any]) -> str:
    """The bearer's token, or ""."""
    scheme, _, token = str(metadata.get("authorization", "")).partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


class ReflectionGuard(grpc.aio.ServerInterceptor):  # type: ignore[misc]
    """Asks for a key before the contract is shown; health is for everybody, and our own calls ask themselves."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def intercept_service(self, continuation: Handler, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        """The handler, or one that refuses."""
        if details.method.startswith("/grpc.reflection."):
            try:
                call = Call(lambda call: None, "grpc", "reflection")
                self._engine.keys.admit(call, token_of(dict(details.invocation_metadata)))
            except WeightloomError as error:
                return _refusing(error)
        return await continuation(details)


def _refusing(error: WeightloomError) -> grpc.RpcMethodHandler:
    async def refuse(_: object, context: grpc.aio.ServicerContext) -> None:
        await context.abort_with_status(status_of(error))

    return grpc.stream_stream_rpc_method_handler(refuse)
