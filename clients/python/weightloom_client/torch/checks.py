"""Seeds and specs, checked when something is made from them and not when it is first used."""

from __future__ import annotations

import operator
from typing import Any

from pydantic import ValidationError
from weightloom.errors import InvalidInput, InvalidSpec, Violation
from weightloom.fabric.kinds import RandomMatrixHypernet
from weightloom.fabric.spec import MAX_SEED, violations_of

__all__ = ["checked_seed", "checked_spec"]


def checked_seed(seed: Any) -> int:
    """The seed as an int, from any integer (numpy's too). Raises InvalidInput for others and beyond 64 bits."""
    try:
        value = -1 if isinstance(seed, bool) else operator.index(seed)
    except TypeError:
        value = -1
    if not 0 <= value <= MAX_SEED:
        raise InvalidInput.at("seed", repr(seed), "an integer from 0 to 2^64 - 1")
    return value


def checked_spec(name: str, **fields: Any) -> RandomMatrixHypernet:
    """The spec of the tensor called ``name``. Raises InvalidSpec, which names the tensor and the field."""
    try:
        return RandomMatrixHypernet(name=name, **fields)
    except ValidationError as error:
        found = violations_of(error.errors(include_url=False))
        violations = [_of_tensor(name, each) for each in found]
        raise InvalidSpec("; ".join(map(str, violations)), violations=violations) from error


def _of_tensor(name: str, violation: Violation) -> Violation:
    """``violations_of`` calls the whole spec "body", where fields do not go together; what it expects names them."""
    at = f"tensors[{name!r}]"
    if violation.field == "body":
        return Violation(at, "fields that do not go together", violation.expected)
    return Violation(f"{at}.{violation.field}", violation.got, violation.expected)
