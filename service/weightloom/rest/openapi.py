"""The OpenAPI document: FastAPI's own, plus the routes whose bodies it does not parse itself."""

from __future__ import annotations

from typing import Any

from pydantic import TypeAdapter
from pydantic.json_schema import models_json_schema

from weightloom.fabric import ModelSpec
from weightloom.requests.json_form import ByModel, FileOptions, Inline
from weightloom.rest.calls import PUBLIC
from weightloom.rest.examples import FABRICATE_EXAMPLES, MODEL_EXAMPLE

__all__ = ["complete"]

REFERENCE = "#/components/schemas/{model}"
BINARY = {"schema": {"type": "string", "format": "binary"}}
PROBLEM = {
    "type": "object",
    "required": ["type", "title", "status", "detail", "code", "request_id"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "code": {"type": "string", "description": "Stable; what programs should test."},
        "request_id": {"type": "string", "description": "As in X-Request-Id, and in the server's log."},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {name: {"type": "string"} for name in ("field", "got", "expected")},
            },
        },
    },
}
ERRORS = {
    "404": "No such model or factors",
    "401": "No API key, or none that counts",
    "403": "The API key lacks the scope",
    "412": "If-Match names another file",
    "413": "Over a limit",
    "415": "Unknown content type",
    "422": "A field is wrong",
    "429": "As much to do as the server may, or a quota used up; see Retry-After",
    "503": "Not ready, or the registry cannot be used",
    "504": "Too late: the request's body, a place to run, or the client's own deadline",
}
REDIRECT = {
    "description": "A large file: send the same request to `Location`, the server's own address",
    "headers": {
        "Location": {"schema": {"type": "string", "format": "uri"}},
        "ETag": {"schema": {"type": "string"}, "description": "Of the file that is to be had there."},
    },
    "content": {"application/problem+json": {"schema": {"$ref": REFERENCE.format(model="Problem")}}},
}
OF_BODIES = ("413", "422", "504")  # what reading a request's body can end in, on every route


def complete(document: dict[str, Any]) -> dict[str, Any]:
    """Add what FastAPI cannot know: POST /fabricate, /v1/factors, the body of POST /v1/models, the shape of errors."""
    schemas = document["components"]["schemas"]
    _, definitions = models_json_schema(
        [(model, "validation") for model in (ByModel, FileOptions, Inline, ModelSpec)], ref_template=REFERENCE
    )
    schemas |= definitions["$defs"]
    schemas["Problem"] = PROBLEM
    document["paths"] = {"/fabricate": {"post": _fabricate()}} | document["paths"]
    document["paths"]["/v1/factors/{sha256}"] = _factors()
    document["tags"] = [{"name": name} for name in ("fabricate", "models", "factors", "status")]
    create = document["paths"]["/v1/models"]["post"]
    create["requestBody"] = _json_body({"$ref": REFERENCE.format(model="ModelSpec")}, {"mlp": MODEL_EXAMPLE})
    create["responses"] |= {"200": create["responses"]["201"] | {"description": "It was there already"}}
    create["responses"] |= _problems("409")
    for route, path in document["paths"].items():
        for operation in path.values():
            if route.startswith("/v1/models"):
                operation["responses"] |= _problems(*OF_BODIES, "503")
            if "{name}" in route:
                operation["responses"] |= _problems("404")
            if "422" in operation["responses"]:  # FastAPI's own
                operation["responses"] |= _problems("422")
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    _guard(document)
    return document


def _guard(document: dict[str, Any]) -> None:
    """Say where an API key goes, and what is answered without one."""
    key = {"type": "http", "scheme": "bearer", "description": "`wl_…`; where the server asks for one."}
    document["components"]["securitySchemes"] = {"api_key": key}
    document["security"] = [{"api_key": []}, {}]
    for name, path in document["paths"].items():
        for operation in () if name in PUBLIC else path.values():
            operation["responses"] |= _problems("401", "403", "429")


def _fabricate() -> dict[str, Any]:
    either = {"oneOf": [{"$ref": REFERENCE.format(model=name)} for name in ("ByModel", "Inline")]}
    headers = {
        "ETag": {"schema": {"type": "string"}, "description": "Strong: equal for equal bytes."},
        "Server-Timing": {"schema": {"type": "string"}},
    }
    file = {"content": {"application/octet-stream": BINARY}, "headers": headers}
    return {
        "tags": ["fabricate"],
        "summary": "Weave tensors for a w",
        "operationId": "fabricate",
        "description": (
            "Weave the tensors of a model for a w and stream them as one safetensors file. The w's come as JSON, or as "
            "a safetensors body with the options in the query or, where they are too long for a URL, as JSON "
            "(`FileOptions`) in the file's `__metadata__` under `weightloom.options`; an option in both is refused."
        ),
        "parameters": [*_query(), *_conditions()],
        "requestBody": _json_body(either, FABRICATE_EXAMPLES, more={"application/octet-stream": BINARY}),
        "responses": {
            "200": {"description": "The whole file"} | file,
            "206": {"description": "The part from `offset` on"} | file,
            "304": {"description": "If-None-Match names this very file"},
            "307": REDIRECT,
        }
        | _problems(*ERRORS),
    }


def _factors() -> dict[str, Any]:
    """PUT and GET."""
    properties = {"sha256": {"type": "string"}, "size": {"type": "integer", "description": "In bytes."}}
    known = {"content": {"application/json": {"schema": {"type": "object", "properties": properties}}}}
    path = {"name": "sha256", "in": "path", "required": True, "schema": {"type": "string", "pattern": "^[0-9a-f]{64}$"}}
    common = {"tags": ["factors"], "parameters": [path]}
    put = {
        "operationId": "put_factors",
        "summary": "Upload imported factors",
        "description": (
            "P, Q, S and T of a tensor of kind `imported_hypernet`: float32, little-endian, row-major, end to end, "
            "under the SHA-256 of these bytes. Factors that no model refers to may be removed after a day."
        ),
        "requestBody": {"required": True, "content": {"application/octet-stream": BINARY}},
        "responses": {"201": {"description": "Kept"} | known, "200": {"description": "They were there already"} | known}
        | _problems(*OF_BODIES, "503"),
    }
    get = {
        "operationId": "get_factors",
        "summary": "Are these factors here?",
        "responses": {"200": {"description": "They are"} | known} | _problems("404", "422", "503"),
    }
    return {"put": common | put, "get": common | get}


def _json_body(schema: dict[str, Any], examples: dict[str, Any], more: dict[str, Any] | None = None) -> dict[str, Any]:
    named = {name: {"summary": name, "value": value} for name, value in examples.items()}
    return {"required": True, "content": {"application/json": {"schema": schema, "examples": named}} | (more or {})}


def _query() -> list[dict[str, Any]]:
    note = "Only with a safetensors body."
    fields: dict[str, Any] = {
        "model": str,
        "dtype": str,
        "tensors": list[str],
        "rows": list[str],
        "offset": int,
        "length": int,
    }
    more = {"rows": " TENSOR=FIRST:LAST, LAST excluded."}
    return [
        {
            "name": name,
            "in": "query",
            "schema": TypeAdapter(kind).json_schema(),
            "description": note + more.get(name, ""),
        }
        for name, kind in fields.items()
    ]


def _conditions() -> list[dict[str, Any]]:
    texts = {
        "If-Match": "ETag of the file; another one gives 412.",
        "If-None-Match": "ETag; the same one gives 304.",
        "X-Weightloom-Direct": "`no`: answer here and never by 307. `yes`: follows a 307 and takes its API key along.",
    }
    return [{"name": n, "in": "header", "schema": {"type": "string"}, "description": t} for n, t in texts.items()]


def _problems(*statuses: str) -> dict[str, Any]:
    content = {"application/problem+json": {"schema": {"$ref": REFERENCE.format(model="Problem")}}}
    texts = ERRORS | {"409": "The name is taken by another model"}
    return {status: {"description": texts[status], "content": content} for status in statuses}
