"""Clients that register, warm, unload, look at, list and delete models, beside those that fetch them."""

from __future__ import annotations

import json
from typing import Any

from soak.forms import JSON, MODELS, HttpRequest, registration
from soak.ledger import OK
from soak.menu import VOLATILE
from soak.visitor import BUSY, ID, Visitor
from soak.wire import connect

__all__ = ["KEEPER_VISITS", "residency_request"]

STATUS_PATHS = ("/healthz", "/readyz", "/metrics", "/v1/info")
GONE = ("model_not_found",)


def residency_request(name: str, residency: str | None) -> HttpRequest:
    """Say what becomes of its T."""
    return HttpRequest("PUT", f"{MODELS}/{name}/residency", json.dumps({"residency": residency}).encode(), (JSON,))


async def _do(visitor: Visitor, request: HttpRequest, *accepted: int, or_codes: tuple[str, ...] = ()) -> bytes:
    """The body of a success; an error must be one of ``or_codes``."""
    async with connect(visitor.address) as connection:
        request_id = await visitor.ask(connection, request)
        head = await connection.head()
        if head.status >= 400:
            code = await visitor.problem(connection, head, request_id)
            if code not in (*or_codes, BUSY):
                visitor.fail(request_id, f"{code} to {request!r:.300}")
            return b""
        if head.status not in accepted or head.headers.get(ID) != request_id:
            visitor.fail(request_id, f"{head} to {request!r:.300}")
        visitor.ended(request_id if request.target.startswith(MODELS) else "", OK)
        return await connection.whole_body(head)


async def register(visitor: Visitor) -> None:
    """A model that may be there already."""
    model = visitor.rng.choice(VOLATILE)
    body = await _do(visitor, registration(model), 200, 201)
    if body and _field(body, "digest") != model.spec.digest:
        visitor.fail(model.name, f"registered as {body[:200]!r}")


async def warm_or_unload(visitor: Visitor) -> None:
    """It holds from the reply on."""
    residency = visitor.rng.choice(["resident", "resident", "virtual", "auto", None])
    request = residency_request(visitor.rng.choice(VOLATILE).name, residency)
    body = await _do(visitor, request, 200, or_codes=GONE)
    if body and residency and _field(body, "residency") not in ("resident", "virtual", "auto"):
        visitor.fail(request.target, f"{residency} gave {body[:200]!r}")


async def delete(visitor: Visitor) -> None:
    """By name or digest; streams of it go on."""
    model = visitor.rng.choice(VOLATILE)
    name = visitor.rng.choice([model.name, model.spec.digest])
    await _do(visitor, HttpRequest("DELETE", f"{MODELS}/{name}"), 204, or_codes=GONE)


async def look(visitor: Visitor) -> None:
    """One model, all models, the server's state."""
    model = visitor.rng.choice(VOLATILE)
    body = await _do(visitor, HttpRequest("GET", f"{MODELS}/{model.name}"), 200, or_codes=GONE)
    if body and _field(body, "digest") != model.spec.digest:
        visitor.fail(model.name, f"shown as {body[:200]!r}")
    for path in (f"{MODELS}?limit=3", *STATUS_PATHS):
        await _do(visitor, HttpRequest("GET", path), 200)


def _field(body: bytes, name: str) -> Any:
    return json.loads(body)[name] if body else None


KEEPER_VISITS = {register: 3, warm_or_unload: 3, delete: 2, look: 1}
