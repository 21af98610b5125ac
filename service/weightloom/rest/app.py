"""The ASGI application: POST /fabricate and /v1/factors straight, everything else through FastAPI."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from fastapi_offline import FastAPIOffline
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import BaseRoute, Match, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from weightloom import __version__
from weightloom.engine import Engine
from weightloom.errors import WeightloomError
from weightloom.rest import openapi, problems
from weightloom.rest.calls import CALL, in_a_call
from weightloom.rest.direct import Direct
from weightloom.rest.fabricate import FabricateRoute
from weightloom.rest.factors import FACTORS_PATH, FactorsRoute
from weightloom.rest.models import models_router
from weightloom.rest.status import status_router
from weightloom.settings import Settings

__all__ = ["build_app"]

# What a page of another origin may read of a reply, besides its type and length.
CORS_EXPOSED = ("etag", "content-range", "retry-after", "server-timing", "x-request-id")
DESCRIPTION = "Serves fabricated weights: a seed and a compact vector w in, a safetensors stream out."


def build_app(engine: Engine, settings: Settings) -> ASGIApp:
    """The whole REST front over ``engine``."""
    api: FastAPI = FastAPIOffline(
        redoc_url=None,
        title="weightloom",
        version=__version__,
        description=DESCRIPTION,
        separate_input_output_schemas=False,
    )
    routers = status_router(engine, settings), models_router(engine, settings.max_page)
    for router in routers:
        api.include_router(router)
    _answer_errors(api, [route for router in routers for route in router.routes])
    _describe(api)
    spec_limit = min((settings.max_request_bytes, "max_request_bytes"), (settings.max_json_bytes, "max_json_bytes"))
    direct = Direct(settings.direct_url, settings.direct_bytes) if settings.direct_url else None
    fabricate = FabricateRoute(engine, settings.max_request_bytes, settings.max_json_bytes, direct)
    factors = FactorsRoute(engine, settings.max_factors_bytes)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await api(scope, receive, send)
        elif scope["path"] == "/fabricate":
            await fabricate(scope, receive, send)
        elif scope["path"].startswith(FACTORS_PATH):
            await factors(scope, receive, send)
        else:
            if scope["method"] == "HEAD":
                scope = {**scope, "method": "GET"}  # the server leaves the body away
            await in_a_call(engine, api, spec_limit, scope, receive, send)

    return _with_cors(app, settings.cors_origins) if settings.cors_origins else app


def _with_cors(app: ASGIApp, origins: str) -> ASGIApp:
    """Pages of these origins may call. Credentials are bearer tokens, which pages send themselves: cookies stay out."""
    return CORSMiddleware(
        app, allow_origins=origins.split(","), allow_methods=["*"], allow_headers=["*"], expose_headers=CORS_EXPOSED
    )


def _answer_errors(api: FastAPI, routes: Sequence[BaseRoute]) -> None:
    async def problem_response(request: Request, error: Exception) -> Response:
        reply = problems.response_of(error, request.scope[CALL])
        if reply.status_code == 405 and (methods := _methods(routes, request.scope)):
            reply.headers["allow"] = ", ".join(sorted(methods))
        return reply

    for error in (WeightloomError, HTTPException, RequestValidationError, Exception):
        api.add_exception_handler(error, problem_response)


def _methods(routes: Sequence[BaseRoute], scope: Scope) -> set[str]:
    """All methods of a path: Starlette itself names those of the first route alone that has it."""
    found = (route for route in routes if route.matches(scope)[0] is not Match.NONE)
    methods = {method for route in found if isinstance(route, Route) for method in route.methods or ()}
    return methods | {"HEAD"} if "GET" in methods else methods


def _describe(api: FastAPI) -> None:
    def document() -> dict[str, Any]:
        if api.openapi_schema is None:
            plain = get_openapi(title=api.title, version=api.version, description=api.description, routes=api.routes)
            api.openapi_schema = openapi.complete(plain)
        return api.openapi_schema

    api.openapi = document  # type: ignore[method-assign]
