"""What cannot be fabricated is refused at once, by name, and leaves the net as it was."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize
from weightloom.errors import InvalidInput
from weightloom.fabric.kinds import RandomMatrixHypernet
from weightloom_client.torch import (
    Fabricated,
    FabricatedConv2d,
    FabricatedEmbedding,
    FabricatedLinear,
    fabricate_module,
    initial_w,
    model_spec,
    random_matrix_hypernet_reconciliation,
    started,
    weave,
)

SIZES: dict[str, Any] = {"l": 8, "r": 8, "hidden_dim": 16}
SPEC = RandomMatrixHypernet(name="a", shape=(5, 4), **SIZES)

MAKERS: dict[str, Callable[[Any], Any]] = {
    "fabricate_module": lambda seed: fabricate_module(nn.Linear(3, 4), seed=seed, **SIZES),
    "fabricate_module of nothing": lambda seed: fabricate_module(nn.ReLU(), seed=seed, **SIZES),
    "Fabricated": lambda seed: Fabricated(SPEC, seed, torch.zeros(8)),
    "FabricatedLinear": lambda seed: FabricatedLinear(3, 4, name="a", seed=seed, **SIZES),
    "FabricatedLinear with a scale": lambda seed: FabricatedLinear(3, 4, name="a", seed=seed, scale=0.1, **SIZES),
    "FabricatedConv2d": lambda seed: FabricatedConv2d(3, 4, 2, name="a", seed=seed, **SIZES),
    "FabricatedEmbedding": lambda seed: FabricatedEmbedding(3, 4, name="a", seed=seed, **SIZES),
    "drop-in": lambda seed: random_matrix_hypernet_reconciliation("a", seed=seed),
    "initial_w": lambda seed: initial_w("a", seed, 8, 8),
    "started": lambda seed: started(SPEC, seed, 1.0),
    "weave": lambda seed: weave(torch.zeros(8), SPEC, seed),
}


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS.keys())
@pytest.mark.parametrize("seed", [1.5, True, "7", -1, 2**64, None])
def test_what_is_no_seed_is_refused_when_something_is_made_with_it(make: Callable[[Any], Any], seed: Any) -> None:
    with pytest.raises(InvalidInput, match=r"seed: got .*, expected an integer from 0 to 2"):
        make(seed)


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS.keys())
@pytest.mark.parametrize("seed", [0, 2**64 - 1, np.int64(7), np.uint64(2**64 - 1)])
def test_all_integers_of_64_bits_are_seeds(make: Callable[[Any], Any], seed: Any) -> None:
    make(seed)


def test_numpys_integers_make_the_weights_that_pythons_make() -> None:
    seeds: tuple[Any, Any] = 7, np.int64(7)
    one, two = (FabricatedLinear(3, 4, name="weight", seed=seed, **SIZES) for seed in seeds)
    assert torch.equal(one.weight, two.weight)
    assert model_spec(one, "m") == model_spec(two, "m")


def net_of(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), *layers)


def empty_linear() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch, that there is nothing to initialise
        return nn.Linear(0, 4)


@pytest.mark.parametrize(
    ("last", "arguments", "told"),
    [
        (nn.Linear(4, 5), {"stds": {"1.*": float("nan")}}, r"standard deviation of '1\.weight'"),
        (nn.Linear(4, 5), {"stds": {"1.*": float("inf")}}, r"standard deviation of '1\.weight'"),
        (nn.Linear(4, 5), {"stds": {"1.*": 0.0}}, r"standard deviation of '1\.weight'"),
        (
            nn.Linear(4, 5),
            {"stds": {"1.*": 1e38}},
            r"tensors\['1\.weight'\]: got fields that do not go together, expected scale within",
        ),
        (empty_linear(), {}, r"tensors\['1\.weight'\]\.shape\[1\]: got 0"),
        (nn.Linear(4, 5), {"r": 0}, r"tensors\['0\.weight'\]\.r: got 0"),
        (nn.Linear(4, 5, dtype=torch.complex64), {}, r"1\.weight: got torch\.complex64"),
        (parametrizations.weight_norm(nn.Linear(4, 5)), {}, r"1\.parametrizations\.weight\.original0"),
    ],
)
def test_a_net_of_which_a_part_is_refused_is_not_half_converted(
    last: nn.Module, arguments: dict[str, Any], told: str
) -> None:
    net = net_of(last)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with pytest.raises(InvalidInput, match=told):
        fabricate_module(net, seed=1, **SIZES | arguments)
    after = net.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)


@pytest.mark.parametrize("sizes", [{"l": 0}, {"r": 5000}, {"hidden_dim": 1.5}, {"name": ""}])
def test_a_layer_of_sizes_that_no_spec_may_have_is_invalid_input(sizes: dict[str, Any]) -> None:
    arguments = {"name": "a", **SIZES, **sizes}
    with pytest.raises(InvalidInput, match=next(iter(sizes))):
        FabricatedLinear(3, 4, seed=1, **arguments)


def test_a_second_call_leaves_what_is_fabricated_and_makes_other_parts_in_other_sizes() -> None:
    net = nn.Sequential(nn.Linear(3, 40), nn.Linear(40, 5))
    fabricate_module(net, seed=1, l=8, kinds={"1.*": "identity"})
    first = net.get_parameter("0.parametrizations.weight.original").clone()
    fabricate_module(net, seed=1, l=16)
    again = net.get_parameter("0.parametrizations.weight.original")
    assert torch.equal(first, again)
    assert net.get_parameter("1.parametrizations.weight.original").shape == (16,)
    assert [tensor.w_length for tensor in model_spec(net, "m").tensors if "weight" in tensor.name] == [8, 16]


def test_a_fabricated_parameter_that_had_a_gradient_forgets_it() -> None:
    layer = nn.Linear(4, 5)
    layer(torch.randn(2, 4)).sum().backward()
    parametrize.register_parametrization(layer, "weight", Fabricated(SPEC, 1, torch.zeros(8)), unsafe=True)
    w = layer.get_parameter("parametrizations.weight.original")
    assert w.grad is None
    torch.optim.SGD(layer.parameters(), lr=0.1).step()
    layer(torch.randn(2, 4)).sum().backward()
    assert w.grad is not None


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(InvalidInput, match="kinds"):
        fabricate_module(nn.Linear(3, 4), kinds={"*": "lorr"}, seed=1, **SIZES)
