"""gRPC in a replica: the calls of ``rpc/service.py`` behind what Ray Serve gives to a deployment's methods.

Ray finds a method by its RPC's name, hands it the messages and a context that can end the call but not write to it,
and sends what the method gives. Every call is registered as one that takes a stream, as in our own server.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any

import grpc
import grpc.aio
from ray.serve.grpc_util import RayServegRPCContext

from weightloom.ray.http import NOT_STRAIGHT
from weightloom.ray.requirements import check_grpc_environment
from weightloom.rpc.service import SERVICE

__all__ = ["Received", "Serialized", "add_grpc", "stream", "unary"]

UNARY = (
    "CreateModel",
    "GetModel",
    "ListModels",
    "DeleteModel",
    "SetResidency",
    "GetFactors",
    "PutFactors",
)

Method = Callable[[object, Any], Awaitable[bytes | None]]
Received = tuple[object, bytes]
HERE = object()  # a copy of it is another one: what comes with that was received by another process


def add_grpc(servicer: Any, server: grpc.aio.Server) -> None:
    """What ``grpc_options.grpc_servicer_functions`` names: the contract, its messages left as bytes.

    Raises ValueError where HAProxy is not tuned for gRPC.
    """
    check_grpc_environment(os.environ)
    handlers = {name: grpc.stream_unary_rpc_method_handler(getattr(servicer, name), _receive) for name in UNARY}
    handlers["Fabricate"] = grpc.stream_stream_rpc_method_handler(servicer.Fabricate, _receive)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    server.add_registered_method_handlers(SERVICE, handlers)


def _receive(data: bytes) -> Received:
    return HERE, data


class Serialized:
    """Bytes in the place of a message that Ray would serialize."""

    __slots__ = ("_data",)

    def __init__(self, data: bytes) -> None:
        self._data = data

    def SerializeToString(self) -> bytes:  # noqa: N802 (protobuf's name)
        """The bytes."""
        return self._data


async def unary(method: Method, messages: AsyncIterator[Received], context: RayServegRPCContext) -> Serialized:
    """One call with one reply, which is nothing where the call has failed: the context has its status then."""
    reply = None
    with suppress(_EndedError):
        reply = await method(None, _Context(messages, context))
    return Serialized(reply or b"")


async def stream(
    method: Method, messages: AsyncIterator[Received], context: RayServegRPCContext
) -> AsyncGenerator[Serialized, None]:
    """One call with a stream of replies, each made when the last one has been taken."""
    replies: asyncio.Queue[bytes | None] = asyncio.Queue()

    async def call() -> None:
        with suppress(_EndedError):
            await method(None, _Context(messages, context, replies))

    task = asyncio.create_task(call())
    task.add_done_callback(lambda _: replies.put_nowait(None))
    try:
        while (reply := await replies.get()) is not None:
            yield Serialized(reply)
            replies.task_done()
        await task
    finally:
        task.cancel()
        await asyncio.wait([task])


class _EndedError(Exception):
    """The call has ended with a status other than OK."""


class _NotStraightError(Exception):
    """The same, where Ray tells a status only if the method raises."""


class _Context:
    """As much of grpc.aio.ServicerContext as the calls use.

    Two things differ, since Ray has them not: initial metadata comes as trailing, and a deadline is not known here; the
    call is cancelled when it has passed.
    """

    def __init__(
        self,
        messages: AsyncIterator[Received],
        context: RayServegRPCContext,
        replies: asyncio.Queue[bytes | None] | None = None,
    ) -> None:
        self._messages, self._context, self._replies = messages, context, replies
        self._is_straight = True

    def invocation_metadata(self) -> Sequence[tuple[str, str]]:
        return self._context.invocation_metadata()

    def peer(self) -> str:
        return str(self._context.peer())

    def time_remaining(self) -> None:
        return None

    async def read(self) -> Any:
        """Raises Unavailable for what Ray's Python proxy has brought, as ``http.mounted`` does."""
        received = await anext(self._messages, None)
        if received is None:
            return grpc.aio.EOF
        where, data = received
        self._is_straight = where is HERE
        if not self._is_straight:
            raise NOT_STRAIGHT
        return data

    async def write(self, chunk: bytes) -> None:
        """Returns when gRPC has room for the next one."""
        assert self._replies is not None
        self._replies.put_nowait(chunk)
        await self._replies.join()

    async def send_initial_metadata(self, metadata: Sequence[tuple[str, str]]) -> None:
        self._context.set_trailing_metadata(list(metadata))

    async def abort(self, code: grpc.StatusCode, details: str, trailers: Sequence[tuple[str, Any]]) -> None:
        """Ray sends trailers only of methods that return, so the status is set and no error goes on to it."""
        self._context.set_code(code)
        self._context.set_details(details)
        self._context.set_trailing_metadata(list(trailers))
        raise _EndedError if self._is_straight else _NotStraightError(details)
