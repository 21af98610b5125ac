"""What FastAPI answers, each in the context of a call: named, counted, and with its id in the reply."""

from __future__ import annotations

from functools import partial

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from weightloom.engine import Call, Engine
from weightloom.errors import WeightloomError
from weightloom.rest import problems
from weightloom.rest.body import BodyLimit, ClientGoneError, Headers, limit_body, read_body, replay

__all__ = ["CALL", "PUBLIC", "in_a_call"]

CALL = "weightloom.call"  # where a handler finds its call in the ASGI scope
MODELS = "/v1/models"
ON_ALL = {"GET": "list_models", "POST": "create_model"}
ON_ONE = {"GET": "get_model", "DELETE": "delete_model", "PUT": "set_residency"}
OTHER = "other"
PUBLIC = frozenset({"/healthz", "/readyz"})  # for everybody, key or not
SMALL_BODY_BYTES = 1 << 16  # of calls that have nothing large to say; they are parsed on the event loop


async def in_a_call(
    engine: Engine, app: ASGIApp, spec_limit: tuple[int, str], scope: Scope, receive: Receive, send: Send
) -> None:
    """Run ``app``; status routes have an id, but are not counted. spec_limit: of a new model, and its setting.

    The body is read first: inside of FastAPI, an error of reading it would become another.
    """
    with _call(engine, scope) as call:

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = [*message.get("headers", ()), (b"x-request-id", call.request_id.encode())]
                message = {**message, "headers": headers}
            await send(message)

        headers = Headers(scope)
        try:
            if scope["path"] not in PUBLIC:
                engine.keys.admit(call, headers.token)
            body = await read_body(limit_body(headers, receive, _limit(engine, call, spec_limit)))
        except ClientGoneError:
            call.code = "cancelled"
        except WeightloomError as error:
            await problems.response_of(error, call)(scope, receive, send_with_id)
        else:
            await app({**scope, CALL: call}, replay(body, receive), send_with_id)


def _limit(engine: Engine, call: Call, spec_limit: tuple[int, str]) -> BodyLimit:
    size, what = SMALL_BODY_BYTES, "for this call"
    if call.name == "create_model":
        size, what = spec_limit[0], f"setting {spec_limit[1]}"
    return BodyLimit(size, what, engine.limits.stall_seconds, partial(engine.admission.count, call))


def _call(engine: Engine, scope: Scope) -> Call:
    method, path, headers = scope["method"], scope["path"], Headers(scope)
    request_id = headers.get(b"x-request-id")
    if path != MODELS and not path.startswith(f"{MODELS}/"):
        return Call(partial(_end_of_other, engine), "rest", OTHER, request_id)
    model = path.removeprefix(MODELS)[1:]
    name = (ON_ONE if model else ON_ALL).get(method, OTHER)
    call = engine.call("rest", name, request_id, traceparent=headers.get(b"traceparent"))
    call.model = model
    return call


def _end_of_other(engine: Engine, call: Call) -> None:
    engine.admission.leave(call)
    if call.code == "route_not_found":
        engine.observer.call_ended(call)
