"""What clients do over gRPC: the same as over REST, each visit on a connection of its own."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
from soak.codes import RPC_TABLE
from soak.forms import RPC_FORMS, message, resumed
from soak.ledger import GAVE_UP, LEFT, OK
from soak.menu import Order
from soak.options import STALL_SECONDS
from soak.visitor import BULK, ID, RETRY, SMALL, Pause, Visitor, stops_once
from support.rpc import Failure, read_failure
from weightloom_proto.v1 import fabrication_pb2 as pb
from weightloom_proto.v1.fabrication_pb2_grpc import FabricationServiceStub

__all__ = ["RPC_VISITS", "channel_to", "failed", "stub_to"]

# Windows that do not grow (to many MiB, over the loopback) make a reader that stops noticed soon.
OWN_CONNECTION = [("grpc.use_local_subchannel_pool", 1), ("grpc.http2.bdp_probe", 0)]


@asynccontextmanager
async def channel_to(visitor: Visitor) -> AsyncIterator[grpc.aio.Channel]:
    """A new connection, which is closed in the end, whatever still runs."""
    async with grpc.aio.insecure_channel(visitor.grpc_target, options=OWN_CONNECTION) as channel:
        yield channel


@asynccontextmanager
async def stub_to(visitor: Visitor) -> AsyncIterator[Any]:
    """The generated client over a new connection."""
    async with channel_to(visitor) as channel:
        yield FabricationServiceStub(channel)


def _call(visitor: Visitor, stub: Any, request: pb.FabricateRequest, **options: Any) -> tuple[str, Any]:
    request_id = visitor.new_id()
    return request_id, stub.Fabricate(request, metadata=((ID, request_id),), **options)


async def rpc_fetch(visitor: Visitor) -> None:
    """Some files one after the other over one connection, as fast as they come."""
    async with stub_to(visitor) as stub:
        for _ in range(visitor.rng.randint(1, 4)):
            order, form = visitor.menu.any(visitor.rng), visitor.rng.choice(list(RPC_FORMS))
            request_id, call = _call(visitor, stub, RPC_FORMS[form](order.request))
            await _receive(visitor, request_id, call, order, form)


async def rpc_together(visitor: Visitor) -> None:
    """Small files at the same time over one connection."""
    async with stub_to(visitor) as stub:
        orders = [visitor.menu.sized(visitor.rng, *SMALL) for _ in range(6)]
        calls = [(*_call(visitor, stub, message(order.request)), order) for order in orders]
        await asyncio.gather(*(_receive(visitor, request_id, call, order) for request_id, call, order in calls))


async def rpc_read_slowly(visitor: Visitor) -> None:
    """With pauses, but never so long that it counts as stalling."""
    order = visitor.menu.sized(visitor.rng, *BULK)

    def pause() -> float:
        return visitor.rng.uniform(0, 0.15)

    async with stub_to(visitor) as stub:
        request_id, call = _call(visitor, stub, message(order.request))
        await _receive(visitor, request_id, call, order, pause=pause)


async def _receive(
    visitor: Visitor, request_id: str, call: Any, order: Order, form: str = "grpc", pause: Pause | None = None
) -> str:
    """Read a stream to its end, whatever that is, and hold it against the order: how it ended."""
    whole, size = hashlib.sha256(), 0
    try:
        async for chunk in call:
            if not size:
                _check_first(visitor, request_id, chunk, order)
            whole.update(chunk.data)
            size += len(chunk.data)
            if pause is not None:
                await asyncio.sleep(pause())
    except grpc.aio.AioRpcError as error:
        return await failed(visitor, request_id, error)
    if dict(await call.initial_metadata()).get(ID) != request_id:
        visitor.fail(request_id, "its id is not in the reply")
    return visitor.complete(request_id, order, form, whole.hexdigest())


def _check_first(visitor: Visitor, request_id: str, chunk: pb.FabricateChunk, order: Order) -> None:
    if (chunk.etag, chunk.model_digest) != (order.etag, order.model.spec.digest):
        visitor.fail(request_id, f"first chunk {chunk.etag} {chunk.model_digest}, expected {order}")


async def failed(visitor: Visitor, request_id: str, error: grpc.aio.AioRpcError) -> str:
    """Hold an error against the table: its code."""
    try:
        failure = await asyncio.to_thread(read_failure, error)
    except ValueError:  # gRPC's own "Deadline Exceeded" came on top of what the server said
        if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
            return visitor.ended(request_id, GAVE_UP)
        raise
    if not failure.reason and error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
        return visitor.ended(request_id, GAVE_UP)  # gRPC in this process noticed first
    told = (failure.status, failure.domain, failure.trailers.get(ID))
    expected = (RPC_TABLE.get(failure.reason), "weightloom", request_id)
    if told != expected or failure.reason == "internal":
        visitor.fail(request_id, f"{failure}, expected {expected}")
    if failure.reason in RETRY:
        await _wait_for_retry(visitor, request_id, failure)
    return visitor.ended(request_id, failure.reason)


async def _wait_for_retry(visitor: Visitor, request_id: str, failure: Failure) -> None:
    if not failure.retry_after:
        visitor.fail(request_id, f"{failure.reason} without RetryInfo")
    await asyncio.sleep(visitor.rng.uniform(0.2, 1.0))


async def rpc_stall(visitor: Visitor) -> None:
    """Once it has begun, read nothing for longer than the server allows, then all there is: it must have been cut."""
    order, pause = visitor.menu.large, stops_once(2.5 * STALL_SECONDS)
    async with stub_to(visitor) as stub:
        request_id, call = _call(visitor, stub, message(order.request))
        if await _receive(visitor, request_id, call, order, pause=pause) == OK:
            visitor.fail(request_id, "a stalled reader got a whole file")


async def rpc_vanish(visitor: Visitor) -> None:
    """Cancel in the middle of a stream, or go with the whole connection."""
    await _take_a_part(visitor, visitor.menu.sized(visitor.rng, *BULK))


async def _take_a_part(visitor: Visitor, order: Order) -> tuple[str, bytes]:
    """The ETag and some bytes of a file; none where there came an error."""
    wanted, etag, data = visitor.rng.randint(1, order.size // 2), "", bytearray()
    async with stub_to(visitor) as stub:
        request_id, call = _call(visitor, stub, message(order.request))
        try:
            async for chunk in call:
                data += chunk.data
                etag = etag or chunk.etag
                if len(data) >= wanted:
                    break
        except grpc.aio.AioRpcError as error:
            await failed(visitor, request_id, error)
            return etag, bytes(data)
        visitor.ended(request_id, LEFT)
        if visitor.rng.random() < 0.5:
            call.cancel()
    return etag, bytes(data)


async def rpc_resume(visitor: Visitor) -> None:
    """Go, come again and go on at that byte, held to the ETag: both parts together are the whole."""
    order = visitor.menu.sized(visitor.rng, *BULK)
    etag, begun = await _take_a_part(visitor, order)
    if not begun:
        return
    request, whole = message(resumed(order.request, len(begun))), hashlib.sha256(begun)
    request.if_match = etag
    async with stub_to(visitor) as stub:
        request_id, call = _call(visitor, stub, request)
        try:
            async for chunk in call:
                whole.update(chunk.data)
        except grpc.aio.AioRpcError as error:
            await failed(visitor, request_id, error)
            return
    visitor.complete(request_id, order, "grpc-resumed", whole.hexdigest())


async def rpc_hurry(visitor: Visitor) -> None:
    """With a deadline that is too short for some."""
    order = visitor.menu.sized(visitor.rng, *BULK)
    async with stub_to(visitor) as stub:
        timeout = visitor.rng.choice([0.02, 0.1, 0.3, 1.0])
        request_id, call = _call(visitor, stub, message(order.request), timeout=timeout)
        await _receive(visitor, request_id, call, order)


RPC_VISITS = {
    rpc_fetch: 8,
    rpc_together: 3,
    rpc_read_slowly: 2,
    rpc_stall: 1,
    rpc_vanish: 3,
    rpc_resume: 3,
    rpc_hurry: 2,
}
