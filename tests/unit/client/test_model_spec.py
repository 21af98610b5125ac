"""A spec made from a module, and what stays of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from weightloom.errors import InvalidSpec, InvalidW
from weightloom.fabric import ModelSpec as FabricSpec
from weightloom.fabric import VirtualFile, safetensors
from weightloom_client.model_spec import ModelSpec, identity_w


def net() -> torch.nn.Sequential:
    return torch.nn.Sequential(torch.nn.Conv2d(3, 40, 5), torch.nn.BatchNorm2d(40), torch.nn.Linear(300, 20))


def spec_of(module: Any = None, **options: Any) -> ModelSpec:
    return ModelSpec.from_module(module or net(), name="net", seed=7, **options)


def test_matrices_are_woven_and_small_floats_are_kept_and_counters_left_out() -> None:
    kinds = {tensor.name: tensor.kind for tensor in spec_of().tensors}
    assert kinds == {
        "0.weight": "random_matrix_hypernet",
        **dict.fromkeys(["0.bias", "1.weight", "1.bias", "1.running_mean", "1.running_var"], "identity"),
        "2.weight": "random_matrix_hypernet",
        "2.bias": "identity",
    }


def test_the_first_pattern_that_matches_decides() -> None:
    kinds = {
        "0.weight": {"l": 16, "r": 8, "scale": 0.5},
        "2.weight": "eye",
        "1.running_*": None,
        "*.bias": "zeros",
        "*": "identity",
    }
    by_name: dict[str, Any] = dict(spec_of(kinds=kinds, hidden_dim=32).by_name)
    first = by_name["0.weight"]
    assert (first.l, first.r, first.hidden_dim, first.scale) == (16, 8, 32, 0.5)
    assert by_name["2.weight"].value == "eye"
    assert by_name["0.bias"].value == "zeros"
    assert by_name["1.weight"].kind == "identity"
    assert not [name for name in by_name if "running" in name]


@pytest.mark.parametrize("r", [32, 256])
def test_like_gives_weights_the_spread_of_the_modules(r: int) -> None:
    module = net()
    spec = spec_of(module, r=r)
    rng = np.random.default_rng(0)
    w = {"2.weight": rng.normal(size=64) / 8, "0.weight": rng.normal(size=64) / 8}
    made, _ = safetensors.parse((file := VirtualFile(spec, w, tensors=list(w))).read(0, file.size))
    for name, values in made.items():
        assert 0.6 < values.std() / module.state_dict()[name].std().item() < 1.6


def test_shapes_alone_give_the_same_spec_as_the_fabrics_json() -> None:
    spec = ModelSpec.from_shapes({"a": (8, 4), "b": (4,)}, name="m", seed=1, l=8, r=4, kinds={"b": "ones"})
    a = {"name": "a", "shape": [8, 4], "l": 8, "r": 4}
    b = {"name": "b", "shape": [4], "kind": "constant", "value": "ones"}
    plain = FabricSpec.from_value({"name": "m", "seed": 1, "tensors": [a, b]})
    assert spec.digest == plain.digest
    assert spec == plain
    assert plain == spec
    assert hash(spec) == hash(plain)
    assert FabricSpec.parse(spec.model_dump_json()) == spec


def test_arrays_of_numpy_and_half_precision_tensors_serve_as_a_module() -> None:
    arrays = {"a": np.eye(4, dtype=np.float16), "b": torch.eye(5, dtype=torch.bfloat16), "n": np.arange(3)}
    assert [tensor.name for tensor in spec_of(arrays).tensors] == ["a", "b"]


def test_tied_tensors_stand_under_both_names_unless_one_is_left_out() -> None:
    module = torch.nn.ModuleDict({"in": torch.nn.Embedding(9, 4), "out": torch.nn.Linear(4, 9, bias=False)})
    module["out"].weight = module["in"].weight
    assert set(spec_of(module).by_name) == {"in.weight", "out.weight"}
    assert set(spec_of(module, kinds={"out.weight": None}).by_name) == {"in.weight"}


@pytest.mark.parametrize(
    ("module", "options", "said"),
    [
        ({"deep.w": torch.zeros(3, 3)}, {}, "tensors['deep.w']: got standard deviation 0.0"),
        ({"deep.w": torch.full((2, 2), torch.nan)}, {}, "tensors['deep.w']: got standard deviation nan"),
        ({"deep.w": torch.tensor([[1.0, torch.inf]])}, {}, "tensors['deep.w']: got standard deviation nan"),
        ({"deep.w": torch.empty(3, 3, device="meta")}, {}, "tensors['deep.w']: got no values"),
        ({"deep.w": torch.ones(2, 2, dtype=torch.complex64)}, {}, "tensors['deep.w']: got dtype torch.complex64"),
        ({"a": torch.ones(2), "deep.w": torch.ones(0)}, {}, "tensors['deep.w'].shape[0]: got 0"),
        ({"deep.w": "text"}, {}, "tensors['deep.w']: got str"),
        ({"deep.w": torch.eye(2)}, {"kinds": {"deep.w": "hypernet"}}, "kinds['deep.w']: got 'hypernet'"),
        ({"deep.w": torch.eye(2)}, {"kinds": {"depp.*": "identity"}}, "kinds['depp.*']: got a pattern that matches no"),
        ({"deep.w": torch.eye(2)}, {"r": 0}, "tensors['deep.w'].r: got 0"),
        ({"deep.w": torch.eye(2)}, {"kinds": {"*": {"rank": 3}}}, "tensors['deep.w'].rank: got 3"),
    ],
)
def test_what_cannot_be_a_spec_is_named(module: Any, options: Any, said: str) -> None:
    with pytest.raises(InvalidSpec) as caught:
        spec_of(module, **options)
    assert said in str(caught.value)


def test_shapes_have_no_spread_to_be_like() -> None:
    with pytest.raises(InvalidSpec, match="a shape without values"):
        ModelSpec.from_shapes({"a": (2, 2)}, name="m", seed=1, kinds={"a": {"scale": "like"}})


def test_identity_ws_are_the_modules_numbers_and_not_its_memory() -> None:
    module = net().to(torch.bfloat16)
    spec = spec_of(module, kinds={"2.weight": "identity"})
    w = identity_w(spec, module)
    assert "0.weight" not in w
    assert w["2.weight"].shape == (6000,)
    assert w["2.weight"].dtype == np.float32
    assert torch.equal(torch.from_numpy(w["2.weight"]).view(20, 300), module[2].weight.float())
    before = w["0.bias"].copy()
    torch.nn.init.ones_(module[0].bias)  # type: ignore[arg-type]
    assert np.array_equal(w["0.bias"], before)


@pytest.mark.parametrize(
    ("bias", "code"),
    [(None, "w_missing"), (np.ones(3), "w_wrong_length"), (np.full(2, np.inf), "w_not_finite")],
)
def test_an_identity_w_that_is_not_there_is_named(bias: Any, code: str) -> None:
    spec = ModelSpec.from_shapes({"bias": (2,)}, name="m", seed=1)
    with pytest.raises(InvalidW, match=r"w\['bias'\]") as caught:
        identity_w(spec, {} if bias is None else {"bias": bias})
    assert caught.value.code == code
