"""What clients send: messages that come in time, and the chunks of an upload of imported factors."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc.aio

from weightloom.engine.limits import MIN_BODY_RATE, BodyPace
from weightloom.errors import DeadlineExceeded, InvalidInput, LimitExceeded
from weightloom.rpc import convert

__all__ = ["in_time", "next_message", "read"]


@asynccontextmanager
async def in_time(stall_seconds: float, left: float = math.inf) -> AsyncIterator[None]:
    """Raise DeadlineExceeded where this context lasts longer. left: the seconds that a body's least rate leaves."""
    patience = asyncio.timeout(min(stall_seconds, left))
    try:
        async with patience:
            yield
    except TimeoutError:
        if not patience.expired():
            raise
        rate = f", or less than {MIN_BODY_RATE} bytes a second beyond them" if left < stall_seconds else ""
        message = f"the request did not come within {stall_seconds:g} s (setting stall_seconds){rate}"
        raise DeadlineExceeded(message, code="sender_stalled") from None


async def next_message(context: grpc.aio.ServicerContext) -> bytes | None:
    """The next message of a request, None at its end."""
    data: bytes = await context.read()
    return None if data is grpc.aio.EOF else data


async def read(
    context: grpc.aio.ServicerContext, max_bytes: int, stall_seconds: float
) -> tuple[str, AsyncIterator[bytes]]:
    """The digest that an upload names, and its bytes as they come, which raise LimitExceeded where they are too many.

    Both raise InvalidInput for what is no FactorsChunk, and DeadlineExceeded.
    """
    async with in_time(stall_seconds):
        message = await next_message(context)
    if message is None:
        raise InvalidInput.at("message", "nothing", "one message at least, with sha256")
    digest, first = convert.factors_chunk(message)
    return digest, _parts(context, first, max_bytes, stall_seconds)


async def _parts(
    context: grpc.aio.ServicerContext, first: bytes, max_bytes: int, stall_seconds: float
) -> AsyncIterator[bytes]:
    part, pace, waited, time = first, BodyPace(stall_seconds), 0.0, asyncio.get_running_loop().time
    while True:
        pace.came(len(part), waited)
        if pace.seen > max_bytes:
            expected = f"at most {max_bytes} (setting max_factors_bytes)"
            raise LimitExceeded.at("factors", f"{pace.seen} bytes or more", expected, code="body_too_large")
        yield part
        began = time()
        async with in_time(stall_seconds, pace.left):
            message = await next_message(context)
        waited = time() - began
        if message is None:
            return
        digest, part = convert.factors_chunk(message)
        if digest:
            raise InvalidInput.at("sha256", digest, "nothing: only the first chunk has it")
