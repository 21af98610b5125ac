"""Options that several commands share, and what they mean."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from weightloom_client import Client

from weightloom.engine import Engine, EngineLimits
from weightloom.errors import InvalidInput, NotFound
from weightloom.fabric import ModelSpec, load_backend, safetensors
from weightloom.fabric.device import Cpu
from weightloom.fabric.dtypes import parse_dtype
from weightloom.registry import REGISTRY_FILE, Registry, SqliteRegistry, open_registry
from weightloom.requests import FabricateRequest, parse_rows, request_from_json

__all__ = [
    "DEFAULT_DATA_DIR",
    "DataDir",
    "Dtype",
    "ModelOption",
    "Request",
    "Rows",
    "Tensors",
    "Url",
    "WFile",
    "client_of",
    "engine_for",
    "local_engine",
    "read_request",
    "read_w",
    "spec_and_w_from_file",
    "spec_from_server",
]

Request = Annotated[Path | None, typer.Argument(help="JSON request, as POST /fabricate takes it.", show_default=False)]
ModelOption = Annotated[str | None, typer.Option("--model", "-m", help="Registered model, or a spec's JSON file.")]
WFile = Annotated[Path | None, typer.Option("--w", "-w", help="The w's: a safetensors file, or JSON by tensor.")]
Dtype = Annotated[str | None, typer.Option(help="F32, F16 or BF16.")]
Tensors = Annotated[list[str] | None, typer.Option("--tensor", "-t", help="Only this tensor; may be repeated.")]
Rows = Annotated[list[str] | None, typer.Option(help="TENSOR=FIRST:LAST, only these rows; may be repeated.")]
Url = Annotated[str | None, typer.Option(envvar="WEIGHTLOOM_URL", help="Server to ask; without it, work here.")]
DEFAULT_DATA_DIR = Path("data")
REGISTRY_URL = "WEIGHTLOOM_REGISTRY_URL"
DATA_DIR_HELP = f"Folder of the local registry; with {REGISTRY_URL} that database is asked instead."
DataDir = Annotated[Path, typer.Option(envvar="WEIGHTLOOM_DATA_DIR", help=DATA_DIR_HELP)]


@contextmanager
def local_engine(data_dir: Path | None, *, create: bool = False) -> Iterator[Engine]:
    """An engine in this process: over the registry in ``data_dir``, or over an empty one where that is None.

    With WEIGHTLOOM_REGISTRY_URL, as the server has it, it is that database's registry. Raises NotFound where there is
    no registry, unless ``create`` says to make one, and Unavailable where it cannot be opened.
    """
    url = os.environ.get(REGISTRY_URL)
    if data_dir is None:
        registry: Registry = SqliteRegistry(None)
    elif url or create or (data_dir / REGISTRY_FILE).exists():
        registry = open_registry(url, data_dir)
    else:
        path = data_dir / REGISTRY_FILE
        advice = "name its folder with --data-dir, or, for models, a server with --url"
        raise NotFound(f"there is no registry at {path}: {advice}")
    engine = Engine(registry, Cpu(load_backend()), EngineLimits())
    try:
        yield engine
    finally:
        engine.close()


def client_of(url: str) -> Client:
    """Of a server, with the API key that WEIGHTLOOM_API_KEY holds, if any: an option would show it to other users."""
    return Client(url, api_key=os.environ.get("WEIGHTLOOM_API_KEY"))


def engine_for(request: FabricateRequest, data_dir: Path) -> AbstractContextManager[Engine]:
    """An engine that knows the model of ``request``: the registry is opened only where it is asked for by name."""
    return local_engine(data_dir if isinstance(request.model, str) else None)


def read_request(
    request: Path | None,
    model: str | None,
    w: Path | None,
    dtype: str | None = None,
    tensors: list[str] | None = None,
    rows: list[str] | None = None,
) -> FabricateRequest:
    """A request from a JSON file, or from a model and a file of w's; the other options override what it says."""
    if (request is None) == (model is None):
        raise InvalidInput.at("REQUEST", "both or neither", "a JSON request, or --model and --w")
    read = request_from_json(request.read_bytes()) if request else FabricateRequest(_model_of(str(model)))
    changes: dict[str, Any] = {}
    if w is not None:
        changes["w"] = read_w(w)
    if dtype is not None:
        changes["dtype"] = parse_dtype(dtype)
    if tensors:
        changes["tensors"] = tensors
    if rows:
        changes["rows"] = dict(parse_rows(text) for text in rows)
    return replace(read, **changes)


def _model_of(model: str) -> str | ModelSpec:
    return spec_and_w_from_file(Path(model))[0] if model.endswith(".json") else model


def spec_and_w_from_file(path: Path) -> tuple[ModelSpec, dict[str, Any]]:
    """The spec in a JSON file, and the w's where it is a whole request. Raises InvalidInput."""
    body = path.read_bytes()
    try:
        is_request = "w" in json.loads(body)
    except (ValueError, TypeError):
        is_request = False  # whatever is wrong, the spec's own reader says it best
    if not is_request:
        return ModelSpec.parse(body), {}
    request = request_from_json(body)
    if not isinstance(request.model, ModelSpec):
        raise InvalidInput.at(str(path), f"a request for model {request.model!r}", "a spec, or a request that has one")
    return request.model, dict(request.w)


def spec_from_server(name: str, url: str) -> ModelSpec:
    """The spec that a server has under a name or digest. Raises ServerError."""
    with client_of(url) as client:
        return client.get_spec(name)


def read_w(path: Path) -> dict[str, Any]:
    """The w's in a safetensors or JSON file; JSON through the request's own reader, so that numbers round alike."""
    if path.suffix == ".json":
        return dict(request_from_json(b'{"model": "x", "w": %b}' % path.read_bytes()).w)
    return {name: np.asarray(array) for name, array in safetensors.parse(path.read_bytes())[0].items()}
