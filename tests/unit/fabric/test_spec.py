"""Model specs: what they refuse, and the digest by which they are known."""

from __future__ import annotations

import json
from typing import Any

import pytest
from weightloom.errors import InvalidSpec, MalformedBody
from weightloom.fabric import ModelSpec
from weightloom.fabric.kinds.random_matrix_hypernet import max_scale

GOOD: dict[str, Any] = {"name": "demo/mlp", "seed": 7, "tensors": [{"name": "t", "shape": [4, 6]}]}


def with_tensor(**fields: Any) -> dict[str, Any]:
    return GOOD | {"tensors": [{"name": "t", "shape": [4]} | fields]}


WRONG = [
    (GOOD | {"name": ""}, "name"),
    (GOOD | {"name": "a b"}, "name"),
    (GOOD | {"name": "/a"}, "name"),
    (GOOD | {"name": "a/../b"}, "name"),
    (GOOD | {"name": "0" * 64}, "name"),
    (GOOD | {"seed": -1}, "seed"),
    (GOOD | {"seed": 2**64}, "seed"),
    (GOOD | {"seed": str(2**64)}, "seed"),
    (GOOD | {"seed": 1.0}, "seed"),
    (GOOD | {"seed": True}, "seed"),
    (GOOD | {"seed": "0x1"}, "seed"),
    (GOOD | {"tensors": []}, "tensors"),
    (GOOD | {"tensors": GOOD["tensors"] * 2}, "tensors"),
    (GOOD | {"extra": 1}, "extra"),
    ({"seed": 1, "tensors": GOOD["tensors"]}, "name"),
    (with_tensor(name=""), "tensors[0].name"),
    (with_tensor(name="__metadata__"), "tensors[0].name"),
    (with_tensor(name="a\nb"), "tensors[0].name"),
    (with_tensor(name="a\ud800"), "tensors[0].name"),
    (with_tensor(shape=[0]), "tensors[0].shape[0]"),
    (with_tensor(shape=[2**24, 2**24, 2]), "tensors[0].shape"),
    (with_tensor(shape=[1] * 33), "tensors[0].shape"),
    (with_tensor(shape=[2.5]), "tensors[0].shape[0]"),
    (with_tensor(l=0), "tensors[0].l"),
    (with_tensor(l=2**20 + 1), "tensors[0].l"),
    (with_tensor(r=4097), "tensors[0].r"),
    (with_tensor(hidden_dim=2**20 + 1), "tensors[0].hidden_dim"),
    (with_tensor(l=2**20, r=257), "tensors[0]"),
    (with_tensor(hidden_dim=2**20, r=257), "tensors[0]"),
    (with_tensor(scale=float("inf")), "tensors[0].scale"),
    (with_tensor(scale=1e36), "tensors[0]"),
    (with_tensor(scale="1"), "tensors[0].scale"),
    (with_tensor(kind="nope"), "tensors[0]"),
    (with_tensor(kind="identity", r=2), "tensors[0].r"),
    (with_tensor(kind="constant", value="twos"), "tensors[0].value"),
    ([1], "body"),
]


@pytest.mark.parametrize(("value", "field"), WRONG)
def test_wrong_specs_are_refused_by_field(value: Any, field: str) -> None:
    with pytest.raises(InvalidSpec) as caught:
        ModelSpec.from_value(value)
    first = caught.value.violations[0]
    assert first.field == field
    assert first.got
    assert first.expected
    assert str(first) in caught.value.message


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"nul", b"[" * 100_000, b"1" * 5000])
def test_what_is_no_json_is_malformed(body: bytes) -> None:
    with pytest.raises((MalformedBody, InvalidSpec)):
        ModelSpec.parse(body)


@pytest.mark.parametrize(
    "tensor",
    [
        {"shape": [2**24, 2**24]},
        {"shape": [4], "l": 2**20, "r": 256},
        {"shape": [4], "hidden_dim": 2**20, "r": 256},
        {"shape": [4], "r": 4096},
        {"shape": [], "scale": max_scale(2, 128)},
        {"shape": [1] * 32},
    ],
)
def test_the_limits_themselves_are_allowed(tensor: dict[str, Any]) -> None:
    assert ModelSpec.from_value(with_tensor(**tensor)).tensors[0].name == "t"


def test_a_hundred_thousand_tensors_are_allowed_and_no_more() -> None:
    tensors = [{"name": str(i), "shape": [1], "kind": "constant", "value": "ones"} for i in range(100_001)]
    assert len(ModelSpec.from_value(GOOD | {"tensors": tensors[:-1]}).tensors) == 100_000
    with pytest.raises(InvalidSpec, match="tensors"):
        ModelSpec.from_value(GOOD | {"tensors": tensors})


def test_a_seed_may_be_an_integer_or_a_decimal_string() -> None:
    specs = [ModelSpec.from_value(GOOD | {"seed": seed}) for seed in (2**64 - 1, str(2**64 - 1))]
    assert specs[0].digest == specs[1].digest
    assert json.loads(specs[0].canonical)["seed"] == str(2**64 - 1)


def test_canonical_json_and_digest_are_frozen() -> None:
    """They name models for ever: whatever changes them orphans every digest that someone has stored."""
    spec = ModelSpec.from_value(GOOD)
    assert spec.canonical == (
        b'{"generator":"philox-normal-v1","name":"demo/mlp","seed":"7","tensors":[{"hidden_dim":128,'
        b'"kind":"random_matrix_hypernet","l":64,"name":"t","r":2,"scale":1,"shape":[4,6]}]}'
    )
    assert spec.digest == "bb93040d366c6fed97e99d28642af5046e63708674f951e6ef0c397d2f57fd3b"


def test_equal_meaning_has_equal_digests() -> None:
    spelled = {"kind": "random_matrix_hypernet", "scale": 1, "l": 64, "r": 2, "hidden_dim": 128, "shape": [4, 6]}
    assert (
        ModelSpec.from_value(GOOD | {"tensors": [{"name": "t"} | spelled]}).digest == ModelSpec.from_value(GOOD).digest
    )
    plus, minus = (ModelSpec.from_value(with_tensor(scale=scale)) for scale in (0.0, -0.0))
    assert plus.digest == minus.digest
    assert str(plus.tensors[0].scale) == str(minus.tensors[0].scale)  # type: ignore[union-attr]


@pytest.mark.parametrize(("l", "r", "shape", "free"), [(64, 2, [4, 6], 2), (2, 64, [4, 6], 2), (64, 64, [3], 3)])
def test_degrees_of_freedom_are_told(l: int, r: int, shape: list[int], free: int) -> None:
    spec = ModelSpec.from_value(with_tensor(l=l, r=r, shape=shape))
    assert spec.tensors[0].degrees_of_freedom == free
    assert ("only 2 degrees of freedom" in spec.description) == (r < min(l, 24))


def test_a_model_whose_w_is_used_in_full_has_no_warning() -> None:
    assert "degrees of freedom" not in ModelSpec.from_value(with_tensor(l=4, r=4, shape=[4, 6])).description
