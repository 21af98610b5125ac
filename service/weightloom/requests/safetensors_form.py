"""A request as a safetensors file of w's, with its options in a URL's query or in the file's metadata."""

from __future__ import annotations

import json
from collections.abc import Mapping
from urllib.parse import urlencode

import numpy as np

from weightloom.errors import InvalidInput
from weightloom.fabric import ModelSpec, safetensors
from weightloom.fabric.cache import BoundedCache
from weightloom.requests.options import OPTIONS_METADATA, RequestOptions
from weightloom.requests.request import FabricateRequest

__all__ = ["SPEC_METADATA", "request_from_safetensors", "request_to_safetensors"]

SPEC_METADATA = "weightloom.spec"
KEPT_FORM_BYTES, FORM_BYTES = 16 << 20, 512
QUERY_BYTES = 4096  # a longer one is refused by some servers and proxies on the way


def request_from_safetensors(body: bytes, options: RequestOptions) -> FabricateRequest:
    """The model is the option ``model``, or a spec as JSON in the file's metadata under ``weightloom.spec``.

    options: those beside the file; others may be in its metadata, as JSON under ``weightloom.options``.
    Headers that came before are not read again: clients send the same one with ever new numbers. Raises InvalidInput.
    """
    header = safetensors.header_of(body)
    form = _forms.get((options, header, len(body)))
    if form is None:
        form = _Form(header, options, body)
        _forms.put((options, header, len(body)), form)
    w = {entry.name: safetensors.tensor(entry, body) for entry in form.entries}
    options = form.options
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
        self.header, self.options, self.entries = header, options.with_those_of(metadata), tuple(entries.values())
        self.model = _model_of(self.options, metadata)
        self.names = len(entries) + len(self.options.tensors or ()) + len(self.options.rows)


_forms: BoundedCache[tuple[RequestOptions, bytes, int], _Form] = BoundedCache(
    KEPT_FORM_BYTES, lambda form: FORM_BYTES * (1 + form.names) + 8 * len(form.header)
)


def request_to_safetensors(request: FabricateRequest) -> tuple[bytes, dict[str, list[str]]]:
    """Body and query of a request, w's as float32: the inverse of ``request_from_safetensors``.

    tensors and rows that a query cannot hold are in the body's metadata instead.
    """
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
    if len(urlencode(options, doseq=True)) > QUERY_BYTES or options.get("tensors") == []:
        rows = {name: (int(first), int(last)) for name, (first, last) in (request.rows or {}).items()}
        named = {"tensors": options.pop("tensors", None), "rows": options.pop("rows", None) and rows}
        metadata[OPTIONS_METADATA] = json.dumps({name: value for name, value in named.items() if value is not None})
    w = {name: np.ascontiguousarray(values, "<f4") for name, values in request.w.items()}
    return safetensors.write(metadata, w), options


def _model_of(options: RequestOptions, metadata: Mapping[str, str]) -> str | ModelSpec:
    if options.model:
        return options.model
    if SPEC_METADATA in metadata:
        return ModelSpec.parse(metadata[SPEC_METADATA])
    expected = f"model=NAME in the query, or a spec in the file's metadata under {SPEC_METADATA!r}"
    raise InvalidInput.at("model", "nothing", expected)
