"""A client of the soak: its dice, its requests' ids, and what it makes of the replies."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

from soak.codes import REST_TABLE
from soak.forms import HttpRequest
from soak.ledger import CUT, OK, Ledger
from soak.menu import Menu, Order
from soak.wire import CHUNK, Connection, CutError, Head

__all__ = ["BULK", "BUSY", "ID", "SMALL", "Pause", "Visitor", "stops_once"]

MIB = 1 << 20
SMALL, BULK = (0, MIB // 4), (2 * MIB, 64 * MIB)  # sizes of orders
RETRY = ("too_many_requests", "too_many_bytes")
BUSY = "registry_unavailable"  # where the disk is so slow that the turn of a write does not come
ID = "x-request-id"

Pause = Callable[[], float]


def stops_once(seconds: float) -> Pause:
    """A long pause after the first piece, and none after the others."""
    pauses = iter([seconds])
    return lambda: next(pauses, 0.0)


@dataclass
class Visitor:
    """name: begins the ids of its requests. behaviour: what it does at the moment, for the ledger."""

    name: str
    rng: Random
    menu: Menu
    ledger: Ledger
    address: tuple[str, int]
    grpc_target: str
    behaviour: str = ""
    _requests: int = field(default=0, repr=False)

    def new_id(self) -> str:
        """Of its next request."""
        self._requests += 1
        return f"{self.name}.{self._requests}"

    def fail(self, request_id: str, sentence: str) -> None:
        """Note what must not be."""
        self.ledger.fail(f"{self.behaviour} {request_id}: {sentence}")

    async def ask(self, connection: Connection, request: HttpRequest) -> str:
        """Send a request: its id."""
        request_id = self.new_id()
        await connection.send(request.method, request.target, [*request.headers, (ID, request_id)], request.body)
        return request_id

    def ended(self, request_id: str, ending: str) -> str:
        """Note how a request ended."""
        self.ledger.ended(self.behaviour, request_id, ending)
        return ending

    async def receive(self, connection: Connection, request_id: str, order: Order, form: str, **pace: Any) -> str:
        """Read a reply to its end, whatever that is, and hold it against the order: how it ended."""
        try:
            head = await connection.head()
            if head.status not in (200, 206):
                return await self.problem(connection, head, request_id)
            data = hashlib.sha256()
            await self.read_body(connection, head, data.update, **pace)
        except CutError:
            return self.ended(request_id, CUT)
        self.check_head(request_id, head, order)
        return self.complete(request_id, order, form, data.hexdigest())

    async def read_body(
        self,
        connection: Connection,
        head: Head,
        take: Callable[[bytes], object],
        *,
        pause: Pause | None = None,
        chunk: int = CHUNK,
    ) -> None:
        """Take a body piece by piece, with a pause after each. Raises CutError."""
        async for data in connection.body(head, chunk):
            take(data)
            if pause is not None:
                await asyncio.sleep(pause())

    def check_head(self, request_id: str, head: Head, order: Order) -> None:
        """What the headers of a success must say."""
        expected = {
            "content-length": str(order.size),
            "etag": order.etag,
            "x-weightloom-digest": order.model.spec.digest,
            ID: request_id,
        }
        if wrong := {name: head.headers.get(name) for name in expected if head.headers.get(name) != expected[name]}:
            self.fail(request_id, f"headers {wrong}, expected {expected}")

    def complete(self, request_id: str, order: Order, form: str, sha256: str) -> str:
        """A body has come to its end: are these the bytes?"""
        if sha256 != order.sha256:
            self.fail(request_id, f"wrong bytes of {order.selection} of {order.model.name} as {form}")
        self.ledger.made.update([("form", form), *order.features])
        return self.ended(request_id, OK)

    async def problem(self, connection: Connection, head: Head, request_id: str) -> str:
        """Read an error and hold it against the table: its code. Raises CutError."""
        body = await connection.whole_body(head)
        code = self.check_problem(head, body, request_id)
        if code in RETRY:
            wait = int(head.headers.get("retry-after", 0))
            if wait < 1:
                self.fail(request_id, f"{code} without Retry-After")
            await asyncio.sleep(self.rng.uniform(0.2, 1.0) * min(wait, 1))
        return code

    def check_problem(self, head: Head, body: bytes, request_id: str) -> str:
        """The code of a problem document that is as it must be, or else a failure."""
        try:
            document = json.loads(body)
            code = str(document["code"])
        except (ValueError, TypeError, KeyError):
            self.fail(request_id, f"status {head.status} with {body[:200]!r} is no problem document")
            return self.ended(request_id, f"status {head.status}")
        told = (head.status, document["status"], head.headers.get("content-type"), document["request_id"])
        expected = (REST_TABLE.get(code), REST_TABLE.get(code), "application/problem+json", request_id)
        if told != expected or head.headers.get(ID) != request_id or code == "internal":
            self.fail(request_id, f"{code}: {told}, expected {expected}")
        return self.ended(request_id, code)
