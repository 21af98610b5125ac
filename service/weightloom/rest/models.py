"""/v1/models: register, show, list and delete."""

import asyncio
import json
from dataclasses import asdict
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from weightloom.engine import Engine
from weightloom.fabric import ModelSpec
from weightloom.registry import ModelSummary, describe
from weightloom.rest.calls import CALL
from weightloom.rest.schemas import ModelPage, ModelReply, ResidencyRequest

__all__ = ["models_router"]


def models_router(engine: Engine, max_page: int) -> APIRouter:
    """The routes over ``engine``."""
    router = APIRouter(prefix="/v1/models", tags=["models"])

    @router.post(
        "", status_code=201, response_model=ModelReply, operation_id="create_model", summary="Register a model"
    )
    async def create(request: Request) -> Response:
        """Register a model: 201, or 200 where the very same one is there already. Models are immutable."""
        body = await request.body()
        spec = await asyncio.to_thread(ModelSpec.parse, body)
        request.scope[CALL].model = spec.name
        summary, created = await engine.create_model(spec)
        headers = {"location": f"/v1/models/{summary.name}"}
        return await _reply(engine, summary, spec, 201 if created else 200, headers)

    @router.get("", response_model=ModelPage, operation_id="list_models", summary="List models")
    async def page(
        after: Annotated[str, Query(description="Only names that sort behind this one.")] = "",
        limit: Annotated[int, Query(ge=1, le=max_page, description="At most so many models.")] = min(100, max_page),
    ) -> ModelPage:
        """Registered models by name, a page at a time."""
        found = await engine.list_models(after, limit + 1)
        return ModelPage(models=found[:limit], next=found[limit - 1].name if len(found) > limit else None)

    @router.get("/{name:path}", response_model=ModelReply, operation_id="get_model", summary="Show a model")
    async def show(name: str) -> Response:
        """A model by name or digest, with sizes, degrees of freedom, and what is kept of its factors."""
        return await _reply(engine, *await engine.get_model(name), 200, {})

    @router.put(
        "/{name:path}/residency",
        response_model=ModelReply,
        operation_id="set_residency",
        summary="Warm or unload a model",
    )
    async def set_residency(name: str, wanted: ResidencyRequest) -> Response:
        """Keep T in memory (`resident`: it is warmed now), never (`virtual`: it is unloaded), or as it goes (`auto`).

        It is remembered, and holds for all workers. The reply comes at once; `resident_bytes` grows as T is drawn.
        """
        return await _reply(engine, *await engine.set_residency(name, wanted.residency), 200, {})

    @router.delete("/{name:path}", status_code=204, operation_id="delete_model", summary="Forget a model")
    async def delete(name: str) -> None:
        """Forget a model. Streams of it that run go on to their end."""
        await engine.delete_model(name)

    return router


async def _reply(
    engine: Engine, summary: ModelSummary, spec: ModelSpec, status: int, headers: dict[str, str]
) -> Response:
    def body() -> bytes:
        known = describe(summary, spec) | asdict(engine.residencies.status(summary, spec))
        return json.dumps(known, ensure_ascii=False).encode()

    headers = headers | {"etag": f'"{summary.digest[:40]}"'}
    return Response(await asyncio.to_thread(body), status, headers, "application/json")
