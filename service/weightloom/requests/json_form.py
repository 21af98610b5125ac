"""A request as one JSON object: the body of POST /fabricate, and what the command line reads."""

from __future__ import annotations

import json
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    StrictInt,
    Tag,
    ValidationError,
    model_validator,
)
from pydantic_core import from_json

from weightloom.errors import InvalidInput, InvalidSpec, InvalidW, MalformedBody, WeightloomError
from weightloom.fabric.bounds import MAX_TENSORS, few_fields, no_more_than_tensors
from weightloom.fabric.dtypes import parse_dtype
from weightloom.fabric.spec import ModelName, ModelSpec, Seed, Tensors, violations_of
from weightloom.fabric.vectors import nearest_float32, needs_exact_text
from weightloom.requests.request import FabricateRequest

__all__ = ["INLINE_NAME", "ByModel", "FileOptions", "Inline", "invalid", "request_from_json", "request_from_value"]

W_TAGS = ("<vector>", "<batch>")
INLINE_NAME = "inline"
SPEC_FIELDS = ("name", "seed", "tensors")
Number = Annotated[float, Field(strict=True)]
Vector = Annotated[
    list[Number], Field(fail_fast=True), Tag(W_TAGS[0])
]  # one wrong number of millions is told, not all of them
Batch = Annotated[list[Annotated[list[Number], Field(fail_fast=True)]], Field(fail_fast=True), Tag(W_TAGS[1])]
Natural = Annotated[int, Field(ge=0, strict=True)]


def _vector_or_batch(value: Any) -> str:
    return W_TAGS[isinstance(value, list) and bool(value) and isinstance(value[0], list)]


class _WithW(BaseModel):
    w: Annotated[
        dict[str, Annotated[Vector | Batch, Discriminator(_vector_or_batch)]], BeforeValidator(no_more_than_tensors)
    ] = Field(
        default_factory=dict,
        description="For each tensor that takes a w: l numbers, or a list of B such lists for B variants at once.",
    )


class Options(BaseModel):
    """What all forms of the object share."""

    model_config = ConfigDict(extra="forbid")

    dtype: str = Field("F32", json_schema_extra={"enum": ["F32", "F16", "BF16"]}, description="dtype of the file.")
    rows: Annotated[dict[str, tuple[StrictInt, StrictInt]], BeforeValidator(no_more_than_tensors)] = Field(
        default_factory=dict, description="By tensor, [a, b): only these rows of its first dimension."
    )
    offset: Natural = Field(0, description="Send the file from this byte on (with If-Match: the file's ETag).")
    length: Natural | None = Field(None, description="Send only so many bytes from offset on; default: all the rest.")

    _few_fields = model_validator(mode="before")(few_fields)


class _Selection(Options):
    tensors: Annotated[list[str], Field(max_length=MAX_TENSORS, fail_fast=True)] | None = Field(
        None, description="Only these tensors; default: all of the model."
    )


class FileOptions(_Selection):
    """The options of a request whose w's are a safetensors file, as JSON in its metadata (`weightloom.options`)."""

    model: str = Field("", description="Name or digest of a registered model, unless the file has a spec.")


class ByModel(_Selection, _WithW):
    """Fabricate a registered model."""

    model: str = Field(description="Name or digest of a registered model.")


class Inline(Options, _WithW):
    """Fabricate without registration: the seed and the tensor specs come with the request."""

    name: ModelName = Field(
        INLINE_NAME, description="Goes into the file's metadata and the digest, like a model's name."
    )
    seed: Seed
    tensors: Tensors


def request_from_json(body: bytes) -> FabricateRequest:
    """A request by ``model`` or with an inline ``seed`` and ``tensors``. Raises InvalidInput."""
    try:
        value = from_json(body)
    except ValueError as error:
        raise MalformedBody(f"the body is not JSON: {error}", code="malformed_json") from error
    return request_from_value(value, body)


def request_from_value(value: Any, text: bytes) -> FabricateRequest:
    """The same of an object that is parsed already; ``text`` is what its ``w`` was parsed from. Raises InvalidInput."""
    if not isinstance(value, dict) or ("model" in value) == ("seed" in value):
        raise InvalidInput.at("body", _keys(value), "an object with either 'model', or 'seed' and 'tensors'")
    try:
        parsed = (ByModel if "model" in value else Inline).model_validate(value)
    except ValidationError as error:
        raise invalid(error) from error
    options: dict[str, Any] = {
        "w": _w_of(parsed, text),
        "dtype": parse_dtype(parsed.dtype),
        "rows": parsed.rows,
        "offset": parsed.offset,
        "length": parsed.length,
    }
    if isinstance(parsed, ByModel):
        return FabricateRequest(parsed.model, tensors=parsed.tensors, **options)
    return FabricateRequest(ModelSpec(name=parsed.name, seed=parsed.seed, tensors=parsed.tensors), **options)


def _w_of(parsed: _WithW, text: bytes) -> dict[str, npt.NDArray[np.float64]]:
    """The w's, as float64 that round to the right float32."""
    w = {name: _array(name, numbers) for name, numbers in parsed.w.items()}
    if any(needs_exact_text(array) for array in w.values()):
        exact = json.loads(text, parse_float=nearest_float32, parse_int=_exact_int)["w"]
        w = {name: _array(name, numbers) for name, numbers in exact.items()}
    return w


def _array(name: str, numbers: list[float] | list[list[float]]) -> npt.NDArray[np.float64]:
    try:
        return np.array(numbers, np.float64)
    except (ValueError, OverflowError) as error:
        raise InvalidW.at(f"w[{name!r}]", "lists of different lengths", "B lists of l numbers each") from error


def _exact_int(text: str) -> int | float:
    return int(text) if len(text) < len(str(1 << 53)) else nearest_float32(text)


def invalid(error: ValidationError) -> WeightloomError:
    """What is wrong with the fields of an object, with a code that says of what they are part."""
    violations = violations_of(error.errors(include_url=False), hidden=W_TAGS)
    message = "; ".join(map(str, violations[:3]))
    if violations[0].field.startswith("w"):
        return InvalidW(message, code="w_wrong_type", violations=violations)
    of_spec = violations[0].field.startswith(SPEC_FIELDS)
    return (InvalidSpec if of_spec else InvalidInput)(message, violations=violations)


def _keys(value: object) -> str:
    return "the keys " + ", ".join(map(repr, value)) if isinstance(value, dict) else type(value).__name__
