"""w: rounded once, finite, and of the right shape."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from weightloom.errors import InvalidW
from weightloom.fabric import ModelSpec, VirtualFile
from weightloom.fabric.vectors import as_float32, check_missing, check_shapes, nearest_float32, needs_exact_text

MODEL = ModelSpec.from_value(
    {
        "name": "m",
        "seed": 0,
        "tensors": [
            {"name": "a", "shape": [4, 6], "l": 3},
            {"name": "b", "shape": [2, 2], "kind": "identity"},
            {"name": "c", "shape": [2], "kind": "constant", "value": "ones"},
        ],
    }
)

W: dict[str, Any] = {"a": [1.0, 2.0, 3.0], "b": [0.0, 0.0, 0.0, 1.0]}

LARGEST = float(np.finfo(np.float32).max)

float32_below_the_largest = st.floats(-LARGEST, LARGEST, width=32, exclude_max=True)


def as_arrays(w: dict[str, Any]) -> dict[str, Any]:
    return {name: np.asarray(value, dtype=np.float64) for name, value in w.items()}


@given(float32_below_the_largest, st.integers(-3, 3))
def test_text_beside_a_half_way_point_is_rounded_once(value: float, nudge: int) -> None:
    """Text within 10^-60 of the middle between two float32's: reading it as float64 first loses the side it is on."""
    above = float(np.nextafter(np.float32(value), np.float32(np.inf)))
    middle = (Fraction(value) + Fraction(above)) / 2
    text = str(Decimal(middle.numerator) / Decimal(middle.denominator) if nudge == 0 else exact(middle, nudge))
    even = value if int(np.float32(value).view(np.uint32)) % 2 == 0 else above
    expected = {-1: value, 0: even, 1: above}[(nudge > 0) - (nudge < 0)]
    if Fraction(Decimal(text)) != middle and nudge == 0:
        return  # the middle has more digits than Decimal's default precision keeps
    assert np.float32(nearest_float32(text)) == expected


def exact(middle: Fraction, nudge: int) -> Decimal:
    from decimal import localcontext

    with localcontext() as context:
        context.prec = 400
        step = abs(Decimal(middle.numerator) / Decimal(middle.denominator)) * Decimal(10) ** -60
        return Decimal(middle.numerator) / Decimal(middle.denominator) + nudge * (step or Decimal(10) ** -100)


@given(st.floats(allow_nan=False))
def test_other_text_is_left_to_its_float64(value: float) -> None:
    assert nearest_float32(repr(value)) == value or needs_exact_text(np.array([value]))


@pytest.mark.parametrize("value", [1 + 2**-24, 2.0**-150, 1.5 * 2**-149, 2.0**128 - 2**103, -(2.0**128 - 2**103)])
def test_half_way_points_are_found(value: float) -> None:
    assert needs_exact_text(np.array([0.5, value]))


@given(st.floats(-3e38, 3e38) | st.floats(-1e-37, 1e-37), st.integers(-2, 2), st.booleans())
def test_half_way_points_are_all_of_them(value: float, steps: int, middle: bool) -> None:
    """Against exact arithmetic, near float32's and near the middles between them, subnormal ones too."""
    low = np.float32(value)
    high = np.nextafter(low, np.float32(np.inf))
    near = (float(low) + float(high)) / 2 if middle else float(low)
    for _ in range(abs(steps)):
        near = float(np.nextafter(near, np.inf if steps > 0 else -np.inf))
    neighbours = [float(np.nextafter(np.float32(near), np.float32(side))) for side in (-np.inf, np.inf)]
    middles = [(Fraction(float(np.float32(near))) + Fraction(neighbour)) / 2 for neighbour in neighbours]
    assert needs_exact_text(np.array([near])) == (Fraction(near) in middles)


@pytest.mark.parametrize("value", [0.0, -0.0, 0.1, 1e300, 3.4e38, 2.0**-149, np.inf, np.nan])
def test_other_numbers_are_not(value: float) -> None:
    assert not needs_exact_text(np.array([value]))


def test_every_float_dtype_becomes_float32() -> None:
    for dtype in (np.float64, np.float32, np.float16):
        checked = as_float32({name: np.asarray(value, dtype) for name, value in W.items()})
        assert {name: array.dtype for name, array in checked.items()} == {"a": np.float32, "b": np.float32}


WRONG: list[tuple[dict[str, Any], str, str]] = [
    ({"b": W["b"]}, "w_missing", r"w\['a'\]: got nothing, expected 3 numbers"),
    (W | {"z": [1.0]}, "w_unexpected", r"w\['z'\]: got a w, expected only names of tensors of the model"),
    (W | {"c": [1.0]}, "w_unexpected", r"w\['c'\]: got a w, expected none, a tensor of kind 'constant' takes no w"),
    (W | {"a": [1.0]}, "w_wrong_length", r"w\['a'\]: got shape \[1\], expected \[3\] or \[B, 3\]"),
    (W | {"a": [[1.0]]}, "w_wrong_length", r"w\['a'\]: got shape \[1, 1\]"),
    (W | {"a": [[W["a"]]]}, "w_wrong_length", r"w\['a'\]: got shape \[1, 1, 3\]"),
    (W | {"a": 1.0}, "w_wrong_length", r"w\['a'\]: got shape \[\]"),
    (W | {"a": np.empty((0, 3))}, "w_wrong_length", r"w\['a'\]: got shape \[0, 3\]"),
    (W | {"a": [1.0, float("nan"), 0.0]}, "w_not_finite", r"w\['a'\]\[1\]: got nan, expected a number finite"),
    (W | {"a": [W["a"], [0.0, 0.0, -float("inf")]]}, "w_not_finite", r"w\['a'\]\[1\]\[2\]: got -inf"),
    (W | {"a": [1.0, 1e39, 0.0]}, "w_not_finite", r"w\['a'\]\[1\]: got 1e\+39"),
]


@pytest.mark.parametrize(("w", "code", "message"), WRONG)
def test_a_wrong_w_names_the_tensor_and_what_was_expected(w: dict[str, Any], code: str, message: str) -> None:
    with pytest.raises(InvalidW, match=message) as caught:
        VirtualFile(MODEL, as_arrays(w))
    assert caught.value.code == code


def test_w_of_tensors_that_are_not_selected_may_stay() -> None:
    given = as_arrays(W)
    check_shapes(MODEL, given)
    assert set(given) == {"a", "b"}
    check_missing(given, [MODEL.by_name["a"], MODEL.by_name["c"]])
