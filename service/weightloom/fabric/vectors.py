"""From what a client sends to w: float32 (B, l) per tensor, finite, and rounded once.

float16 and bfloat16 widen exactly, float64 rounds to the nearest float32, and decimal text rounds to the nearest
float32 *directly*. Text that is first read as float64 can be rounded twice, which goes wrong only where the float64
lies exactly half-way between two float32's; ``needs_exact_text`` finds those, ``nearest_float32`` settles them.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any

import numpy as np
import numpy.typing as npt

from weightloom.errors import InvalidW
from weightloom.fabric.kinds import BaseTensorSpec
from weightloom.fabric.spec import ModelSpec

__all__ = ["as_float32", "check_missing", "check_shapes", "nearest_float32", "needs_exact_text"]

SMALLEST_NORMAL = float(np.finfo(np.float32).tiny)

W = npt.NDArray[np.float32]

_FLOAT64, _INT64 = struct.Struct("<d"), struct.Struct("<q")


def needs_exact_text(values: npt.NDArray[np.float64]) -> bool:
    """Whether some float64 lies exactly between two neighbouring float32's, so that its text must be read again."""
    bits = np.ascontiguousarray(values).view(np.int64)
    # In float32's normal range, and at its upper edge, a middle has a one and then only zeros behind 23 bits.
    if np.any((bits & 0x1FFFFFFF) == 0x10000000):
        return True
    tiny = np.abs(values) < SMALLEST_NORMAL
    if not np.any(tiny):
        return False
    steps = values[tiny] / 2.0**-150  # subnormal float32's are even numbers of these steps, middles are odd ones
    return bool(np.any((steps == np.rint(steps)) & (np.fmod(steps, 2) != 0)))


def nearest_float32(text: str) -> float:
    """A float64 that rounds to the float32 nearest to the decimal ``text`` (ties to even): rounded once in effect."""
    value = float(text)
    if not _may_be_half_way(value) or not needs_exact_text(np.array([value])):
        return value
    exact, rounded = Decimal(text), Decimal(value)
    return value if exact == rounded else math.nextafter(value, math.inf if exact > rounded else -math.inf)


def _may_be_half_way(value: float) -> bool:
    """The test of ``needs_exact_text``, cheap enough for each number of a long text."""
    (bits,) = _INT64.unpack(_FLOAT64.pack(value))
    return bits & 0x1FFFFFFF == 0x10000000 or abs(value) < SMALLEST_NORMAL


def check_shapes(model: ModelSpec, w: Mapping[str, npt.NDArray[Any]]) -> None:
    """Raise InvalidW, naming the tensor, what came and what was expected, for a w that the model has no use for.

    A w for a tensor of the model that is not selected is allowed (clients keep all of them) and checked too.
    """
    for name, values in w.items():
        length = _spec_that_takes(name, model).w_length
        if values.ndim not in (1, 2) or values.shape[-1] != length or values.size == 0:
            raise InvalidW.at(
                f"w[{name!r}]", f"shape {list(values.shape)}", f"[{length}] or [B, {length}]", code="w_wrong_length"
            )


def as_float32(w: Mapping[str, npt.NDArray[Any]]) -> dict[str, W]:
    """Every w as float32 (B, l), B = 1 where it came as (l,). Raises InvalidW where a number is not finite then."""
    return {name: _finite(name, values) for name, values in w.items()}


def check_missing(w: Mapping[str, npt.NDArray[Any]], selected: Iterable[BaseTensorSpec]) -> None:
    """Raise InvalidW for the first selected tensor that takes a w and has none."""
    for spec in selected:
        if spec.w_length is not None and spec.name not in w:
            raise InvalidW.at(f"w[{spec.name!r}]", "nothing", f"{spec.w_length} numbers", code="w_missing")


def _spec_that_takes(name: str, model: ModelSpec) -> BaseTensorSpec:
    spec = model.by_name.get(name)
    if spec is None:
        raise InvalidW.at(f"w[{name!r}]", "a w", "only names of tensors of the model", code="w_unexpected")
    if spec.w_length is None:
        expected = f"none, a tensor of kind {spec.kind!r} takes no w"
        raise InvalidW.at(f"w[{name!r}]", "a w", expected, code="w_unexpected")
    return spec


def _finite(name: str, values: npt.NDArray[Any]) -> W:
    if values.dtype == np.float32:
        result: W = np.ascontiguousarray(values)
    else:
        with np.errstate(over="ignore"):
            result = np.ascontiguousarray(values, dtype=np.float32)
    if not np.logical_and.reduce(np.isfinite(result), axis=None):
        at = [int(i) for i in np.argwhere(~np.isfinite(result))[0]]
        place = "".join(f"[{i}]" for i in at)
        raise InvalidW.at(f"w[{name!r}]{place}", values[tuple(at)], "a number finite in float32", code="w_not_finite")
    return result if result.ndim == 2 else result[None]
