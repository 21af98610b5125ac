"""What a model is: a name, a seed, and the specs of its tensors; immutable, and known by its digest."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Sequence
from functools import cached_property
from typing import Annotated, Any

import rfc8785
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationError,
    model_validator,
)

from weightloom.errors import MAX_SHOWN_NAMES, InvalidSpec, MalformedBody, Violation, shorten
from weightloom.fabric.bounds import MAX_SHOWN_VIOLATIONS, MAX_TENSORS, few_fields
from weightloom.fabric.imported import Blob
from weightloom.fabric.kinds import KIND_NAMES, BaseTensorSpec, TensorSpec
from weightloom.fabric.streams import GENERATOR

__all__ = [
    "DIGEST_PATTERN",
    "MAX_TENSORS",
    "ModelName",
    "ModelSpec",
    "Seed",
    "Tensors",
    "degrees_of_freedom_warning",
    "violations_of",
]

MAX_SEED = (1 << 64) - 1
LONGEST_SHOWN_BITS = 1024
IMPORTED = "+imported"
MODEL_NAME_PATTERN = r"^[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?(?:/[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)*$"
DIGEST_PATTERN = re.compile(r"[0-9a-f]{64}")


def _seed(value: object) -> object:
    """Accept a JSON integer or a decimal string: JSON readers may round integers beyond 2^53."""
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,20}", value):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_SEED:
        raise ValueError("an integer from 0 to 2^64 - 1, or the same as a decimal string")
    return value


def _not_a_digest(name: str) -> str:
    if DIGEST_PATTERN.fullmatch(name):
        raise ValueError("a name that is not 64 hexadecimal digits, which would be taken for a digest")
    return name


def _unique_names(tensors: tuple[BaseTensorSpec, ...]) -> tuple[BaseTensorSpec, ...]:
    if not tensors:
        raise ValueError("at least one tensor")
    seen: set[str] = set()
    for tensor in tensors:
        if tensor.name in seen:
            raise ValueError(f"unique tensor names ({shorten(tensor.name)!r} comes twice)")
        seen.add(tensor.name)
    return tensors


ModelName = Annotated[
    str, Field(min_length=1, max_length=200, pattern=MODEL_NAME_PATTERN), AfterValidator(_not_a_digest)
]
Seed = Annotated[
    int,
    BeforeValidator(_seed, json_schema_input_type=int | str),
    PlainSerializer(str, return_type=str),
]
Tensors = Annotated[
    tuple[TensorSpec, ...], Field(max_length=MAX_TENSORS, fail_fast=True), AfterValidator(_unique_names)
]


class ModelSpec(BaseModel):
    """A model: with a w for each of its tensors it is a whole file of weights, and it takes a few hundred bytes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: ModelName = Field(description="Letters, digits, '.', '_', '-'; parts may be joined by '/'.")
    seed: Seed = Field(description="64 bits that decide all factors: an integer or, past 2^53, a decimal string.")
    tensors: Tensors = Field(description="The tensors, in the order of the file.")

    _few_fields = model_validator(mode="before")(few_fields)

    @classmethod
    def parse(cls, body: bytes | str) -> ModelSpec:
        """Read a spec from JSON. Raises MalformedBody or InvalidSpec, whose violations name the fields."""
        try:
            value = json.loads(body if isinstance(body, str) else body.decode())  # of bytes it would guess the encoding
        except (ValueError, RecursionError) as error:
            raise MalformedBody(f"the body is not JSON: {error}", code="malformed_json") from error
        return cls.from_value(value)

    @classmethod
    def from_value(cls, value: object) -> ModelSpec:
        """A spec from a JSON value that is already parsed. Raises InvalidSpec."""
        try:
            return cls.model_validate(value)
        except ValidationError as error:
            violations = violations_of(error.errors(include_url=False))
            raise InvalidSpec("; ".join(map(str, violations[:3])), violations=violations) from error

    @cached_property
    def imported(self) -> tuple[tuple[int, Blob], ...]:
        """The blobs of imported factors that the model needs, each with its tensor's place."""
        return tuple((place, tensor.blob) for place, tensor in enumerate(self.tensors) if tensor.blob is not None)

    @property
    def generator(self) -> str:
        """Where the factors come from: the streams and their version, and whether some are imported."""
        return GENERATOR + IMPORTED if self.imported else GENERATOR

    @cached_property
    def canonical(self) -> bytes:
        """Canonical JSON (RFC 8785) of every field, defaults filled in, plus the generator's name."""
        return rfc8785.dumps({"generator": self.generator} | self.model_dump(mode="json"))

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the canonical JSON, 64 hexadecimal digits: equal digests mean equal bits for ever."""
        return hashlib.sha256(self.canonical).hexdigest()

    @cached_property
    def by_name(self) -> dict[str, BaseTensorSpec]:
        """The tensors by name."""
        return {tensor.name: tensor for tensor in self.tensors}

    @cached_property
    def description(self) -> str:
        """What a user must know of this model: its size, and where its W's are not free."""
        numel, numbers = sum(t.numel for t in self.tensors), sum(t.w_length or 0 for t in self.tensors)
        size = f"Tensors: {len(self.tensors)}; elements: {numel}; numbers in w: {numbers}."
        warnings = [text for text in map(degrees_of_freedom_warning, self.tensors) if text]
        more = [f"So it is with {len(warnings) - 1} more."] if len(warnings) > 1 else []
        return " ".join([size, *warnings[:1], *more])


def degrees_of_freedom_warning(tensor: BaseTensorSpec) -> str | None:
    """Says that W has fewer degrees of freedom than its w has numbers, or None where it has as many as it can."""
    free, possible = tensor.degrees_of_freedom, min(tensor.w_length or 0, tensor.numel)
    if free >= possible:
        return None
    return (
        f"Tensor {tensor.name!r} has only {free} degrees of freedom although its w has {tensor.w_length} numbers: "
        f"W = T h, and h has r = {free} entries. Raise r towards l to use all of w."
    )


def violations_of(errors: Sequence[Any], hidden: Collection[str] = ()) -> list[Violation]:
    """Pydantic's errors (the first of them) with the field as a JSON path and the value that came.

    hidden: tags of discriminated unions, which pydantic puts into its paths and which are no part of the document.
    """
    return [
        Violation(
            shorten(_path(item["loc"], hidden), MAX_SHOWN_NAMES),
            shorten(_got(item)),
            _expected(item["type"], item["msg"]),
        )
        for item in errors[:MAX_SHOWN_VIOLATIONS]
    ]


def _expected(kind: str, message: str) -> str:
    """Pydantic's message, worded to stand after "expected"."""
    fixed = {"missing": "a value", "extra_forbidden": "no such field"}.get(kind)
    return fixed or re.sub(r"^[A-Z][a-z]+ should ", "to ", message.removeprefix("Value error, "))


def _got(item: Any) -> str:
    if item["type"] == "missing":
        return "nothing"
    value = item["input"]
    if isinstance(value, dict | list | tuple):
        return f"{type(value).__name__} of {len(value)} entries"
    too_long = (
        isinstance(value, int) and value.bit_length() > LONGEST_SHOWN_BITS
    )  # Python refuses to print very long ones
    return f"an integer of {value.bit_length()} bits" if too_long else repr(value)


def _path(loc: Sequence[int | str], hidden: Collection[str]) -> str:
    path = ""
    for index, part in enumerate(loc):
        if part in hidden or (part in KIND_NAMES and index and isinstance(loc[index - 1], int)):
            continue
        by_tensor = index == 1 and loc[0] in ("w", "rows")  # tensor names hold dots themselves
        path += f"[{part!r}]" if isinstance(part, int) or by_tensor else f".{part}" if path else part
    return path or "body"
