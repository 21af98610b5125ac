"""Bounds that keep pydantic from telling everything that is wrong: a short body can hold millions of wrong fields."""

from __future__ import annotations

from typing import Any

__all__ = ["MAX_SHOWN_VIOLATIONS", "MAX_TENSORS", "few_fields", "no_more_than_tensors"]

MAX_TENSORS = 100_000
MAX_FIELDS = 64  # of one object; more than any has
MAX_SHOWN_VIOLATIONS = 100


def few_fields(value: Any) -> Any:
    """Before an object is looked at: refuse one of so many fields that most of them cannot be its own."""
    if isinstance(value, dict) and len(value) > MAX_FIELDS:
        raise ValueError(f"an object of at most {MAX_FIELDS} fields")
    return value


def no_more_than_tensors(value: Any) -> Any:
    """Before an object by tensor names is looked at: refuse one that fits no model."""
    if isinstance(value, dict) and len(value) > MAX_TENSORS:
        raise ValueError(f"at most {MAX_TENSORS} names, as many tensors as a model may have")
    return value
