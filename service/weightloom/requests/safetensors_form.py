"""A request as a safetensors file of w's, with its options as text fields (a URL's query)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import parse_qs

import numpy as np

from weightloom.errors import InvalidInput, InvalidSelection
from weightloom.fabric import DType, ModelSpec, safetensors
from weightloom.fabric.cache import BoundedCache
from weightloom.fabric.dtypes import parse_dtype
from weightloom.requests.request import FabricateRequest

__all__ = [
    "SPEC_METADATA",
    "RequestOptions",
    "options_from_query",
    "parse_rows",
    "request_from_safetensors",
    "request_to_safetensors",
]

OPTIONS = {"model", "dtype", "tensors", "rows", "offset", "length"}
SPEC_METADATA = "weightloom.spec"
KEPT_FORM_BYTES, FORM_BYTES = 16 << 20, 512

Options = Mapping[str, Sequence[str]]


@dataclass(frozen=True, eq=False)
class RequestOptions:
    """The options of a request whose w's come as a safetensors file; ``model`` is "" where the file holds a spec."""

    model: str
    dtype: DType
    tensors: Sequence[str] | None
    rows: Mapping[str, tuple[int, int]]
    offset: int
    length: int | None


@lru_cache(maxsize=256)
def options_from_query(query: str) -> RequestOptions:
    """Options as a URL's query has them; rows are TENSOR=FIRST:LAST. Raises InvalidInput."""
    options = parse_qs(query, keep_blank_values=True)
    if unknown := sorted(set(options) - OPTIONS):
        raise InvalidInput.at("query", unknown[0], "only " + ", ".join(sorted(OPTIONS)))
    return RequestOptions(
        _single(options, "model"),
        parse_dtype(_single(options, "dtype") or DType.F32),
        options.get("tensors"),
        dict(parse_rows(text) for text in options.get("rows", [])),
        _natural(options, "offset") or 0,
        _natural(options, "length"),
    )


def request_from_safetensors(body: bytes, options: RequestOptions) -> FabricateRequest:
    """The model is the option ``model``, or a spec as JSON in the file's metadata under ``weightloom.spec``.

    Headers that came before are not read again: clients send the same one with ever new numbers. Raises InvalidInput.
    """
    header = safetensors.header_of(body)
    form = _forms.get((options, header, len(body)))
    if form is None:
        form = _Form(header, options, body)
        _forms.put((options, header, len(body)), form)
    w = {entry.name: safetensors.tensor(entry, body) for entry in form.entries}
    return FabricateRequest(
        form.model,
        w,
        options.dtype,
        options.tensors,
        options.rows,
        options.offset,
        options.length,
        form,
        8 * len(header),
    )


class _Form:
    """All of a request but the numbers: its options, and what the header of its body says."""

    def __init__(self, header: bytes, options: RequestOptions, body: bytes) -> None:
        entries, metadata = safetensors.layout(body)
        self.header, self.options, self.entries = header, options, tuple(entries.values())
        self.model = _model_of(options, metadata)


_forms: BoundedCache[tuple[RequestOptions, bytes, int], _Form] = BoundedCache(
    KEPT_FORM_BYTES, lambda form: FORM_BYTES * (1 + len(form.entries)) + 8 * len(form.header)
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


def _model_of(options: RequestOptions, metadata: Mapping[str, str]) -> str | ModelSpec:
    if options.model:
        return options.model
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
