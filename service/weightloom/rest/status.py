"""/healthz, /readyz, /v1/info, /metrics, and the page at /."""

from __future__ import annotations

import asyncio
from html import escape
from importlib.resources import files
from string import Template
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Response
from fastapi.responses import HTMLResponse

from weightloom import __version__
from weightloom.engine import Engine
from weightloom.fabric import DType
from weightloom.fabric.kinds import KIND_NAMES
from weightloom.fabric.spec import MAX_TENSORS
from weightloom.fabric.streams import GENERATOR
from weightloom.settings import Settings
from weightloom.telemetry import exposition

__all__ = ["status_router"]

PAGE = Template(files("weightloom.rest").joinpath("index.html").read_text(encoding="utf-8"))
EXCLUDE = Query(description="`registry`: ready, too, where it cannot be read, since known models are served on.")
LIMITS = (
    "workers",
    "threads",
    "tile_window",
    "max_request_bytes",
    "max_json_bytes",
    "max_factors_bytes",
    "max_header_bytes",
    "header_seconds",
    "keep_alive_seconds",
    "max_output_bytes",
    "direct_bytes",
    "max_streams",
    "max_queued",
    "max_queue_seconds",
    "stall_seconds",
    "factor_bytes",
    "gpu_factor_bytes",
    "small_factor_bytes",
    "max_page",
    "drain_seconds",
    "shutdown_seconds",
)


def status_router(engine: Engine, settings: Settings) -> APIRouter:
    """The routes over ``engine``."""
    router = APIRouter(tags=["status"])

    @router.get("/healthz", operation_id="healthz", summary="Alive?")
    async def healthz() -> dict[str, str]:
        """Alive: the event loop answers."""
        return {"status": "alive"}

    @router.get(
        "/readyz", operation_id="readyz", summary="Ready?", responses={503: {"description": "Not ready, and why"}}
    )
    async def readyz(exclude: Annotated[Literal["registry"] | None, EXCLUDE] = None) -> dict[str, str]:
        """Ready: a known answer comes out right to the bit, the registry can be read, and no stop is near.

        Where the registry cannot be written, the server is ready all the same, and `registry` says why.
        """
        return {"status": "ready"} | await asyncio.to_thread(engine.check_ready, without_registry=exclude is not None)

    @router.get("/v1/info", operation_id="info", summary="What runs here, and its limits")
    async def info() -> dict[str, Any]:
        """What runs here, and every limit it obeys."""
        return _info(engine, settings)

    @router.get("/metrics", include_in_schema=False)
    async def metrics() -> Response:
        body, content_type = await asyncio.to_thread(exposition)
        return Response(body, headers={"content-type": content_type})

    @router.get("/", include_in_schema=False)
    async def index() -> HTMLResponse:
        facts = _info(engine, settings)
        texts = {key: ", ".join(value) if isinstance(value, list) else str(value) for key, value in facts.items()}
        return HTMLResponse(PAGE.substitute({key: escape(text) for key, text in texts.items()}))

    return router


def _info(engine: Engine, settings: Settings) -> dict[str, Any]:
    return {
        "name": "weightloom",
        "version": __version__,
        "generator": GENERATOR,
        "device": engine.device.name,
        "backend": engine.backend.NAME,
        "dtypes": [dtype.value for dtype in DType],
        "kinds": list(KIND_NAMES),
        "residency": settings.residency,
        "limits": {
            "max_tensors": MAX_TENSORS,
            "tile_bytes": engine.limits.tile.bytes,
            "max_bytes_in_flight": engine.limits.max_bytes_in_flight,
        }
        | {name: getattr(settings, name) for name in LIMITS},
    }
