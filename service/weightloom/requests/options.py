"""The options of a request whose w's come as a safetensors file: from a URL's query, and from the file's metadata."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any
from urllib.parse import parse_qs

from pydantic import ValidationError
from pydantic_core import from_json

from weightloom.errors import InvalidInput, InvalidSelection, MalformedBody
from weightloom.fabric import DType
from weightloom.fabric.dtypes import parse_dtype
from weightloom.requests.json_form import FileOptions, invalid

__all__ = ["OPTIONS_METADATA", "RequestOptions", "options_from_query", "parse_rows"]

OPTIONS = FileOptions.model_fields.keys()
OPTIONS_METADATA = "weightloom.options"
KEPT_QUERY_BYTES = 4096  # longer ones come rarely, and take up to 30 times their length

Options = Mapping[str, Sequence[str]]


@dataclass(frozen=True, eq=False)
class RequestOptions:
    """The options of a request whose w's come as a safetensors file; ``model`` is "" where the file holds a spec.

    given: the names of those that were given.
    """

    model: str
    dtype: DType
    tensors: Sequence[str] | None
    rows: Mapping[str, tuple[int, int]]
    offset: int
    length: int | None
    given: Collection[str] = ()

    def with_those_of(self, metadata: Mapping[str, str]) -> RequestOptions:
        """Together with what a file's metadata has under ``weightloom.options``. Raises InvalidInput."""
        if OPTIONS_METADATA not in metadata:
            return self
        more = _from_json(metadata[OPTIONS_METADATA])
        if twice := sorted(more.keys() & set(self.given)):
            got = f"one in the query and one in the file's metadata under {OPTIONS_METADATA!r}"
            raise InvalidInput.at(twice[0], got, "one of them")
        return replace(self, **more)


def options_from_query(query: str) -> RequestOptions:
    """Options as a URL's query has them; rows are TENSOR=FIRST:LAST. Raises InvalidInput."""
    return _kept(query) if len(query) <= KEPT_QUERY_BYTES else _from_query(query)


def _from_query(query: str) -> RequestOptions:
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
        frozenset(options),
    )


_kept = lru_cache(maxsize=256)(_from_query)


def _from_json(text: str) -> dict[str, Any]:
    """The fields that an object of options has, by name."""
    try:
        value = from_json(text.encode())  # ValueError too where the text has half a surrogate pair
    except ValueError as error:
        raise MalformedBody(f"{OPTIONS_METADATA} is not JSON: {error}", code="malformed_json") from error
    if not isinstance(value, dict):
        raise InvalidInput.at(OPTIONS_METADATA, type(value).__name__, "an object")
    try:
        parsed = FileOptions.model_validate(value)
    except ValidationError as error:
        raise invalid(error) from error
    fields = {field: getattr(parsed, field) for field in parsed.model_fields_set}
    return fields | ({"dtype": parse_dtype(parsed.dtype)} if "dtype" in fields else {})


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
