"""A request as a safetensors file of w's, with its options as text fields (a URL's query)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import numpy as np

from weightloom.errors import InvalidInput, InvalidSelection
from weightloom.fabric import DType, ModelSpec, safetensors
from weightloom.fabric.dtypes import parse_dtype
from weightloom.requests.request import FabricateRequest

__all__ = ["SPEC_METADATA", "parse_rows", "request_from_safetensors", "request_to_safetensors"]

OPTIONS = {"model", "dtype", "tensors", "rows", "offset", "length"}
SPEC_METADATA = "weightloom.spec"

Options = Mapping[str, Sequence[str]]


def request_from_safetensors(body: bytes, options: Options) -> FabricateRequest:
    """The spec comes by the option ``model``, or as JSON in the file's metadata under ``weightloom.spec``.

    options: by name a list of texts; rows are TENSOR=FIRST:LAST. Raises InvalidInput.
    """
    if unknown := sorted(set(options) - OPTIONS):
        raise InvalidInput.at("query", unknown[0], "only " + ", ".join(sorted(OPTIONS)))
    w, metadata = safetensors.parse(body)
    return FabricateRequest(
        _model_of(options, metadata),
        w,
        dtype=parse_dtype(_single(options, "dtype") or DType.F32),
        tensors=options.get("tensors"),
        rows=dict(parse_rows(text) for text in options.get("rows", [])),
        offset=_natural(options, "offset") or 0,
        length=_natural(options, "length"),
    )


def request_to_safetensors(request: FabricateRequest) -> tuple[bytes, dict[str, list[str]]]:
    """Body and options of a request, w's as float32: the inverse of ``request_from_safetensors``."""
    options = {"dtype": [request.dtype.value]}
    metadata = {}
    if isinstance(request.model, ModelSpec):
        metadata[SPEC_METADATA] = json.dumps(request.model.model_dump(mode="json"))
    else:
        options["model"] = [request.model]
    if request.tensors is not None:
        options["tensors"] = list(request.tensors)
    if request.rows:
        options["rows"] = [f"{name}={first}:{last}" for name, (first, last) in request.rows.items()]
    if request.offset:
        options["offset"] = [str(request.offset)]
    if request.length is not None:
        options["length"] = [str(request.length)]
    w = {name: np.ascontiguousarray(values, "<f4") for name, values in request.w.items()}
    return safetensors.write(metadata, w), options


def _model_of(options: Options, metadata: Mapping[str, str]) -> str | ModelSpec:
    if model := _single(options, "model"):
        return model
    if SPEC_METADATA in metadata:
        return ModelSpec.parse(metadata[SPEC_METADATA])
    expected = f"model=NAME in the query, or a spec in the file's metadata under {SPEC_METADATA!r}"
    raise InvalidInput.at("model", "nothing", expected)


def parse_rows(text: str) -> tuple[str, tuple[int, int]]:
    """``TENSOR=FIRST:LAST`` as (tensor, (first, last)). Raises InvalidSelection."""
    name, _, ends = text.rpartition("=")
    first, _, last = ends.partition(":")
    if not (name and _is_natural(first) and _is_natural(last)):
        raise InvalidSelection.at("rows", repr(text), "TENSOR=FIRST:LAST", code="rows_out_of_range")
    return name, (int(first), int(last))


def _single(options: Options, field: str) -> str:
    values = options.get(field, [""])
    if len(values) != 1:
        raise InvalidInput.at(field, f"{len(values)} values", "one")
    return values[0]


def _natural(options: Options, field: str) -> int | None:
    text = _single(options, field)
    if field not in options:
        return None
    if not _is_natural(text):
        raise InvalidSelection.at(field, repr(text), "a number of bytes", code="offset_out_of_range")
    return int(text)


def _is_natural(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 20
