"""What clients do over REST, from the well-behaved to the careless; each visit ends by itself."""

from __future__ import annotations

import asyncio
import hashlib
from contextlib import AsyncExitStack

from soak.forms import REST_FORMS, HttpRequest, json_form, registration, resumed
from soak.ledger import CUT, LEFT, OK
from soak.menu import KEPT, Order
from soak.options import STALL_SECONDS
from soak.visitor import BULK, ID, SMALL, Visitor, stops_once
from soak.wire import Connection, CutError, Head, connect

__all__ = ["REST_VISITS"]

SLOW_CHUNK = 1 << 16
CROWD, HOARD = 40, 14  # beyond max_streams + max_queued, and beyond max_bytes_in_flight in bodies of 1 MiB
MOST = 950_000  # of the MiB that a body may have
UPLOAD = HttpRequest(
    "POST",
    "/fabricate?model=soak/small",
    b"%x\r\n%s\r\n" % (MOST, b"x" * MOST),
    (("content-type", "application/octet-stream"), ("transfer-encoding", "chunked")),
)


async def fetch(visitor: Visitor) -> None:
    """Take one file as fast as it comes."""
    async with connect(visitor.address) as connection:
        await _fetch(visitor, connection, visitor.menu.any(visitor.rng))


async def stay(visitor: Visitor) -> None:
    """Several small files over one connection."""
    async with connect(visitor.address) as connection:
        for _ in range(visitor.rng.randint(3, 8)):
            order = visitor.menu.sized(visitor.rng, *SMALL)
            if await _fetch(visitor, connection, order) == CUT:
                return


async def _fetch(visitor: Visitor, connection: Connection, order: Order) -> str:
    form = visitor.rng.choice(list(REST_FORMS))
    request_id = await visitor.ask(connection, REST_FORMS[form](order.request))
    return await visitor.receive(connection, request_id, order, form)


async def read_slowly(visitor: Visitor) -> None:
    """With pauses, but never so long that it counts as stalling."""
    order = visitor.menu.sized(visitor.rng, *BULK)

    def pause() -> float:
        return visitor.rng.uniform(0, 0.04)

    async with connect(visitor.address, SLOW_CHUNK) as connection:
        request_id = await visitor.ask(connection, json_form(order.request))
        await visitor.receive(connection, request_id, order, "json", pause=pause, chunk=SLOW_CHUNK)


async def stall(visitor: Visitor) -> None:
    """Once it has begun, read nothing for longer than the server allows, then all there is: it must have been cut."""
    order = visitor.menu.large
    async with connect(visitor.address, SLOW_CHUNK) as connection:
        request_id = await visitor.ask(connection, json_form(order.request))
        ending = await visitor.receive(
            connection, request_id, order, "json", pause=stops_once(2.5 * STALL_SECONDS), chunk=SLOW_CHUNK
        )
        if ending == OK:
            visitor.fail(request_id, "a stalled reader got a whole file")


async def vanish(visitor: Visitor) -> None:
    """Go in the middle of a stream, by a clean end or by a reset."""
    await _take_a_part(visitor, visitor.menu.sized(visitor.rng, *BULK))


async def resume(visitor: Visitor) -> None:
    """Go, come again and go on at that byte, held to the ETag: both parts together are the whole."""
    order = visitor.menu.sized(visitor.rng, *BULK)
    head, begun = await _take_a_part(visitor, order)
    if not begun:
        return
    condition = ("if-match", head.headers["etag"])
    async with connect(visitor.address) as connection:
        request_id = await visitor.ask(connection, json_form(resumed(order.request, len(begun)), condition))
        await _take_the_rest(visitor, connection, request_id, order, begun)


async def _take_a_part(visitor: Visitor, order: Order) -> tuple[Head, bytes]:
    """Some bytes of a file; none where there came an error."""
    wanted, data = visitor.rng.randint(1, order.size // 2), bytearray()
    async with connect(visitor.address) as connection:
        request_id = await visitor.ask(connection, json_form(order.request))
        try:
            head = await connection.head()
            if head.status not in (200, 206):
                await visitor.problem(connection, head, request_id)
                return head, b""
            async for piece in connection.body(head):
                data += piece
                if len(data) >= wanted:
                    break
        except CutError:
            visitor.ended(request_id, CUT)
            return head, bytes(data)
        visitor.ended(request_id, LEFT)
        if visitor.rng.random() < 0.5:
            connection.abort()
    return head, bytes(data)


async def _take_the_rest(visitor: Visitor, connection: Connection, request_id: str, order: Order, begun: bytes) -> None:
    whole = hashlib.sha256(begun)
    try:
        head = await connection.head()
        if head.status != 206:
            await visitor.problem(connection, head, request_id)
            return
        await visitor.read_body(connection, head, whole.update)
    except CutError:
        visitor.ended(request_id, CUT)
        return
    visitor.complete(request_id, order, "json-resumed", whole.hexdigest())


async def hurry(visitor: Visitor) -> None:
    """With a deadline that is too short for some."""
    order = visitor.menu.sized(visitor.rng, *BULK)
    timeout = ("x-request-timeout", str(visitor.rng.choice([0.001, 0.05, 0.3, 1.0])))
    async with connect(visitor.address) as connection:
        request_id = await visitor.ask(connection, json_form(order.request, timeout))
        await visitor.receive(connection, request_id, order, "json")


async def crowd(visitor: Visitor) -> None:
    """More at once than may run and wait, none of which reads; who has no answer in a while leaves the queue."""
    await _come_together(visitor, [json_form(visitor.menu.large.request)] * CROWD)


async def hoard(visitor: Visitor) -> None:
    """Begin more uploads than the gate may hold bytes for, and go without ending them."""
    await _come_together(visitor, [UPLOAD] * HOARD)


async def _come_together(visitor: Visitor, requests: list[HttpRequest]) -> None:
    async with AsyncExitStack() as stack:
        connections = [await stack.enter_async_context(connect(visitor.address, SLOW_CHUNK)) for _ in requests]
        ids = [await visitor.ask(*pair) for pair in zip(connections, requests, strict=True)]
        waits = [_wait_a_while(visitor, *pair) for pair in zip(connections, ids, strict=True)]
        await asyncio.gather(*waits)


async def _wait_a_while(visitor: Visitor, connection: Connection, request_id: str) -> None:
    try:
        async with asyncio.timeout(visitor.rng.uniform(0.3, 1.0)):
            head = await connection.head()
    except TimeoutError:
        visitor.ended(request_id, LEFT)
        return
    if head.status == 200:
        visitor.ended(request_id, LEFT)
    else:
        await visitor.problem(connection, head, request_id)


async def break_off(visitor: Visitor) -> None:
    """Announce a body and send half of it."""
    whole = visitor.rng.choice([json_form(visitor.menu.any(visitor.rng).request), registration(KEPT[0])])
    half = whole.body[: len(whole.body) // 2]
    headers = (*whole.headers, ("content-length", str(len(whole.body))))
    async with connect(visitor.address) as connection:
        request_id = await visitor.ask(connection, HttpRequest("POST", whole.target, half, headers))
        await asyncio.sleep(visitor.rng.uniform(0, 0.05))
        visitor.ended(request_id, LEFT)


async def ask_again(visitor: Visitor) -> None:
    """Say what is there already: 304, and no body."""
    order = visitor.menu.sized(visitor.rng, *BULK)
    async with connect(visitor.address) as connection:
        request_id = await visitor.ask(connection, json_form(order.request, ("if-none-match", order.etag)))
        head = await connection.head()
        if head.status != 304:
            await visitor.problem(connection, head, request_id)
            return
        if head.headers.get("etag") != order.etag or head.headers.get(ID) != request_id:
            visitor.fail(request_id, f"304 with {head.headers}")
        visitor.ended(request_id, OK)


REST_VISITS = {
    fetch: 10,
    stay: 6,
    read_slowly: 2,
    stall: 1,
    vanish: 3,
    resume: 3,
    hurry: 2,
    crowd: 1,
    hoard: 1,
    break_off: 1,
    ask_again: 1,
}
