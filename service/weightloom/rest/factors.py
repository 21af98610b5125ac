"""/v1/factors/{sha256} as a bare ASGI application: an upload goes to disk as it comes, and never lies in memory."""

from __future__ import annotations

import json

from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from weightloom.engine import Call, Engine
from weightloom.rest import problems
from weightloom.rest.body import BodyLimit, ClientGoneError, Headers, body_parts, limit_body

__all__ = ["FACTORS_PATH", "FactorsRoute"]

FACTORS_PATH = "/v1/factors/"
CALLS = {"PUT": "put_factors", "GET": "get_factors", "HEAD": "get_factors"}


class FactorsRoute:
    """PUT keeps a blob of at most ``max_bytes``, GET and HEAD tell whether it is there."""

    def __init__(self, engine: Engine, max_bytes: int) -> None:
        self._engine, self._max_bytes = engine, max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        headers = Headers(scope)
        request_id, traceparent = headers.get(b"x-request-id"), headers.get(b"traceparent")
        name = CALLS.get(scope["method"], "other")
        with self._engine.call("rest", name, request_id, traceparent=traceparent) as call:
            try:
                self._engine.keys.admit(call, headers.token)
                reply = await self._answer(scope, headers, receive, call)
            except ClientGoneError:
                call.code = "cancelled"
                return
            except Exception as error:
                reply = problems.response_of(error, call)
            reply.headers["x-request-id"] = call.request_id
            await reply(scope, receive, send)

    async def _answer(self, scope: Scope, headers: Headers, receive: Receive, call: Call) -> Response:
        digest = scope["path"].removeprefix(FACTORS_PATH)
        if scope["method"] == "PUT":
            limit = BodyLimit(
                self._max_bytes, "setting max_factors_bytes", self._engine.limits.stall_seconds, lambda size: None
            )
            is_new = await self._engine.uploads.put(digest, body_parts(limit_body(headers, receive, limit)))
            return _found(digest, await self._engine.uploads.size(digest), 201 if is_new else 200)
        if scope["method"] not in CALLS:
            raise HTTPException(405, f"{scope['method']} is not allowed here", {"allow": "GET, HEAD, PUT"})
        return _found(digest, await self._engine.uploads.size(digest), 200)


def _found(digest: str, size: int, status: int) -> Response:
    return Response(json.dumps({"sha256": digest, "size": size}).encode(), status, media_type="application/json")
