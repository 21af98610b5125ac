"""What FastAPI answers, each in the context of a call: named, counted, and with its id in the reply."""

from __future__ import annotations

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from weightloom.engine import Call, Engine
from weightloom.errors import WeightloomError
from weightloom.rest import problems
from weightloom.rest.body import ClientGoneError, Headers, read_body, replay

__all__ = ["CALL", "in_a_call"]

CALL = "weightloom.call"  # where a handler finds its call in the ASGI scope
MODELS = "/v1/models"
ON_ALL = {"GET": "list_models", "POST": "create_model"}
ON_ONE = {"GET": "get_model", "DELETE": "delete_model", "PUT": "set_residency"}
OTHER = "other"


async def in_a_call(engine: Engine, app: ASGIApp, limit: int, scope: Scope, receive: Receive, send: Send) -> None:
    """Run ``app``; status routes have an id, but are not counted.

    The body, of ``limit`` bytes at most, is read first: inside of FastAPI, an error of reading it would become another.
    """
    with _call(engine, scope) as call:

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = [*message.get("headers", ()), (b"x-request-id", call.request_id.encode())]
                message = {**message, "headers": headers}
            await send(message)

        try:
            body = await read_body(Headers(scope), receive, limit, engine.limits.stall_seconds)
        except ClientGoneError:
            call.code = "cancelled"
        except WeightloomError as error:
            status, document = problems.problem_of(error, call)
            await Response(document, status, media_type=problems.MEDIA_TYPE)(scope, receive, send_with_id)
        else:
            await app({**scope, CALL: call}, replay(body, receive), send_with_id)


def _call(engine: Engine, scope: Scope) -> Call:
    method, path, headers = scope["method"], scope["path"], Headers(scope)
    request_id = headers.get(b"x-request-id")
    if path != MODELS and not path.startswith(f"{MODELS}/"):
        return Call(lambda call: _note_unknown_path(engine, call), "rest", OTHER, request_id)
    model = path.removeprefix(MODELS)[1:]
    name = (ON_ONE if model else ON_ALL).get(method, OTHER)
    call = engine.call("rest", name, request_id, traceparent=headers.get(b"traceparent"))
    call.model = model
    return call


def _note_unknown_path(engine: Engine, call: Call) -> None:
    if call.code == "route_not_found":
        engine.observer.call_ended(call)
