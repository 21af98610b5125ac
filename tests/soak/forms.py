"""Orders as they go over the wire: a JSON body, a safetensors body with a query, or a message."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from soak.menu import Model
from support.rpc import spec_message
from weightloom.fabric import ModelSpec
from weightloom.requests import FabricateRequest, request_to_safetensors
from weightloom_proto.v1 import fabrication_pb2 as pb

__all__ = [
    "JSON",
    "MODELS",
    "REST_FORMS",
    "RPC_FORMS",
    "HttpRequest",
    "json_form",
    "message",
    "registration",
    "resumed",
]

PATH, MODELS = "/fabricate", "/v1/models"
JSON = ("content-type", "application/json")


@dataclass(frozen=True)
class HttpRequest:
    """A request without its id."""

    method: str
    target: str
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()


def registration(model: Model) -> HttpRequest:
    """Of a model."""
    return HttpRequest("POST", MODELS, model.spec.model_dump_json().encode(), (JSON,))


def json_form(request: FabricateRequest, *headers: tuple[str, str]) -> HttpRequest:
    """As JSON, with more headers."""
    value: dict[str, Any] = {"w": {name: w.tolist() for name, w in request.w.items()}, "dtype": request.dtype.value}
    if isinstance(request.model, ModelSpec):
        value |= request.model.model_dump(mode="json")
    else:
        value |= {"model": request.model, "tensors": request.tensors}
    value |= {"rows": request.rows or {}, "offset": request.offset, "length": request.length}
    return HttpRequest("POST", PATH, json.dumps(value).encode(), (JSON, *headers))


def safetensors_form(request: FabricateRequest) -> HttpRequest:
    """As a safetensors file."""
    body, options = request_to_safetensors(request)
    target = f"{PATH}?{urlencode(options, doseq=True)}"
    return HttpRequest("POST", target, body, (("content-type", "application/octet-stream"),))


def message(request: FabricateRequest) -> pb.FabricateRequest:
    """As a message whose w's are numbers."""
    made = _message_without_w(request)
    for name, w in request.w.items():
        made.w[name].values.extend(w.ravel().tolist())
        made.w[name].batch = w.shape[0] if w.ndim == 2 else 0
    return made


def message_with_file(request: FabricateRequest) -> pb.FabricateRequest:
    """As a message whose w's are a safetensors file."""
    made = _message_without_w(request)
    made.w_safetensors = request_to_safetensors(request)[0]
    return made


def _message_without_w(request: FabricateRequest) -> pb.FabricateRequest:
    model = request.model
    source: dict[str, Any] = {"model": model}
    if isinstance(model, ModelSpec):
        source = {"spec": spec_message(model.model_dump(mode="json"))}
    rows = {name: pb.Rows(first=first, last=last) for name, (first, last) in (request.rows or {}).items()}
    made = pb.FabricateRequest(
        **source, dtype=f"DTYPE_{request.dtype}", tensors=request.tensors, rows=rows, offset=request.offset
    )
    if request.length is not None:
        made.length = request.length
    return made


REST_FORMS = {"json": json_form, "safetensors": safetensors_form}
RPC_FORMS = {"grpc": message, "grpc-safetensors": message_with_file}


def resumed(request: FabricateRequest, done: int) -> FabricateRequest:
    """The rest of a request of which ``done`` bytes are there already."""
    length = None if request.length is None else request.length - done
    return dataclasses.replace(request, offset=request.offset + done, length=length)
