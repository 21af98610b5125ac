"""The calls of weightloom.v1.FabricationService: convert, ask the engine, convert back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import TypeVar

import grpc
import grpc.aio
from weightloom_proto.v1 import fabrication_pb2 as pb

from weightloom.engine import Call, Engine, Fabrication
from weightloom.errors import InvalidInput, LimitExceeded
from weightloom.fabric import ModelSpec
from weightloom.registry import ModelSummary
from weightloom.requests import check_if_match
from weightloom.rpc import convert, uploads
from weightloom.rpc.guard import token_of
from weightloom.rpc.receiving import Receiving
from weightloom.rpc.status import status_of, trailers_of

__all__ = ["SERVICE", "FabricationService"]

SERVICE = pb.DESCRIPTOR.services_by_name["FabricationService"].full_name
REQUEST_ID, TRACEPARENT = "x-request-id", "traceparent"
METADATA_SECONDS = 5.0  # it passes by flow control: only a connection that takes nothing at all needs so long
LARGE_MESSAGE_BYTES = 1 << 16  # parsing a longer one takes milliseconds and goes to a thread

T = TypeVar("T")


class FabricationService:
    """Takes and gives serialized messages, so that large ones are parsed off the event loop and chunks copied once."""

    def __init__(self, engine: Engine, max_request_bytes: int, max_page: int, max_factors_bytes: int) -> None:
        self._engine, self._max_request_bytes, self._max_page = engine, max_request_bytes, max_page
        self._max_factors_bytes = max_factors_bytes
        # The gate can count a message only when it is there: so many may be on their way.
        places = max(1, engine.limits.max_bytes_in_flight // max_request_bytes)
        self._receiving = Receiving(places, engine.limits.max_queue_seconds)

    def add_to(self, server: grpc.aio.Server) -> None:
        """Register the calls."""
        unary = {
            "CreateModel": self.create_model,
            "GetModel": self.get_model,
            "ListModels": self.list_models,
            "DeleteModel": self.delete_model,
            "SetResidency": self.set_residency,
            "GetFactors": self.get_factors,
            "PutFactors": self.put_factors,
        }
        # The same on the wire as a unary request, for which grpc would wait without an end, and which it would keep,
        # however large it is, until the call has ended.
        handlers = {name: grpc.stream_unary_rpc_method_handler(method) for name, method in unary.items()}
        handlers["Fabricate"] = grpc.stream_stream_rpc_method_handler(self.fabricate)
        server.add_registered_method_handlers(SERVICE, handlers)

    async def fabricate(self, _: object, context: grpc.aio.ServicerContext) -> None:
        """FabricateRequest → FabricateChunks."""
        async with self._call("fabricate", context) as call:
            request, if_match = await self._read(await self._receive_large(context, call), convert.fabricate_request)
            fabrication = await self._engine.fabricate(request)
            check_if_match(if_match, fabrication.file.etag, "if_match")
            await fabrication.send(_Reply(context, call, fabrication).write, call)

    async def create_model(self, _: object, context: grpc.aio.ServicerContext) -> bytes:
        """CreateModelRequest → Model."""
        async with self._unary("create_model", context) as data:
            spec = await self._read(data, convert.model_to_create)
            summary, _ = await self._engine.create_model(spec)
            return await self._model_reply(summary, spec)

    async def get_model(self, _: object, context: grpc.aio.ServicerContext) -> bytes:
        """GetModelRequest → Model."""
        async with self._unary("get_model", context) as data:
            name = await self._read(data, convert.name_to_get)
            return await self._model_reply(*await self._engine.get_model(name))

    async def list_models(self, _: object, context: grpc.aio.ServicerContext) -> bytes:
        """ListModelsRequest → ListModelsResponse."""
        async with self._unary("list_models", context) as data:
            after, limit = await self._read(data, partial(convert.list_models_request, max_page=self._max_page))
            return convert.list_models_reply(await self._engine.list_models(after, limit + 1), limit)

    async def delete_model(self, _: object, context: grpc.aio.ServicerContext) -> bytes:
        """DeleteModelRequest → Empty."""
        async with self._unary("delete_model", context) as data:
            await self._engine.delete_model(await self._read(data, convert.name_to_delete))
            return b""

    async def set_residency(self, _: object, context: grpc.aio.ServicerContext) -> bytes:
        """SetResidencyRequest → Model."""
        async with self._unary("set_residency", context) as data:
            name, residency = await self._read(data, convert.residency_request)
            return await self._model_reply(*await self._engine.set_residency(name, residency))

    async def put_factors(self, _: object, context: grpc.aio.ServicerContext) -> bytes:
        """FactorsChunks → Factors."""
        async with self._call("put_factors", context) as call:
            stall_seconds = self._engine.limits.stall_seconds
            first, parts = await uploads.read(context, self._max_factors_bytes, stall_seconds)
            await self._engine.uploads.put(first, parts)
            reply = convert.factors_reply(first, await self._engine.uploads.size(first))
            await _send_request_id(context, call)
            return reply

    async def get_factors(self, _: object, context: grpc.aio.ServicerContext) -> bytes:
        """GetFactorsRequest → Factors."""
        async with self._unary("get_factors", context) as data:
            digest = await self._read(data, convert.factors_to_get)
            return convert.factors_reply(digest, await self._engine.uploads.size(digest))

    async def _model_reply(self, summary: ModelSummary, spec: ModelSpec) -> bytes:
        status = await asyncio.to_thread(self._engine.residencies.status, summary, spec)
        return await asyncio.to_thread(convert.model_reply, summary, spec, status)

    @asynccontextmanager
    async def _unary(self, name: str, context: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
        """``_call`` with the one message of a request that passes by the gate, and its reply's initial metadata."""
        async with self._call(name, context) as call:
            yield await self._receive(context, partial(self._engine.admission.count, call))
            await _send_request_id(context, call)

    @asynccontextmanager
    async def _call(self, name: str, context: grpc.aio.ServicerContext) -> AsyncIterator[Call]:
        """``Engine.call``, whose errors end the RPC with their status."""
        metadata = dict(context.invocation_metadata())
        request_id, traceparent = (str(metadata.get(key, "")) for key in (REQUEST_ID, TRACEPARENT))
        ending = None
        with self._engine.call("grpc", name, request_id, context.time_remaining(), traceparent) as call:
            try:
                self._engine.keys.admit(call, token_of(metadata))
                yield call
            except (asyncio.CancelledError, grpc.aio.InternalError) as gone:  # the second: a write that came too late
                raise asyncio.CancelledError from gone
            except Exception as error:
                call.failed(error)
                status = status_of(error)  # in here, where log lines have the call's id
                trailers = (*status.trailing_metadata, *trailers_of(error), (REQUEST_ID, call.request_id))
                ending = status.code, status.details, trailers
        if ending is not None:
            with suppress(grpc.aio.InternalError):  # the client has gone meanwhile
                await context.abort(*ending)

    async def _receive_large(self, context: grpc.aio.ServicerContext, call: Call) -> bytes:
        """The one message of a request that the gate counts."""
        caller = call.key or context.peer().rpartition(":")[0]  # without the port, which each connection has anew
        async with self._receiving.place(caller):
            return await self._receive(context, partial(self._engine.admission.hold, call))

    async def _receive(self, context: grpc.aio.ServicerContext, count: Callable[[int], None]) -> bytes:
        """The one message of the request, whose size is told."""
        async with uploads.in_time(self._engine.limits.stall_seconds):
            data = await uploads.next_message(context)
            if data is None:
                raise InvalidInput.at("message", "nothing", "one message")
            count(len(data))
            return data

    async def _read(self, data: bytes, parse: Callable[[bytes], T]) -> T:
        if len(data) > self._max_request_bytes:
            expected = f"at most {self._max_request_bytes} (setting max_request_bytes)"
            raise LimitExceeded.at("message", f"{len(data)} bytes", expected, code="body_too_large")
        return await self._engine.work(parse, data) if len(data) > LARGE_MESSAGE_BYTES else parse(data)


class _Reply:
    """The stream of one Fabricate: it begins with the first tile, and not before."""

    def __init__(self, context: grpc.aio.ServicerContext, call: Call, fabrication: Fabrication) -> None:
        self._context, self._call = context, call
        self._first = convert.first_fields(fabrication)

    async def write(self, tile: memoryview) -> None:
        """Send a tile; returns when gRPC has room for the next one."""
        if self._first:
            await _send_request_id(self._context, self._call)
        for chunk in convert.chunks(tile, self._first):
            await self._context.write(chunk)
        self._first = b""


async def _send_request_id(context: grpc.aio.ServicerContext, call: Call) -> None:
    """Given up in its midst, it is still ended: gRPC would send the same again with the status, which its core refuses
    silently, and the client would wait for the end of its call for ever.
    """
    sending = asyncio.ensure_future(context.send_initial_metadata(((REQUEST_ID, call.request_id),)))
    # Whenever it ends: that the client has gone is told by the cancellation, not by asyncio's log as well.
    sending.add_done_callback(lambda done: done.cancelled() or done.exception())
    try:
        await asyncio.shield(sending)
    except asyncio.CancelledError:
        await asyncio.wait([sending], timeout=METADATA_SECONDS)
        raise
