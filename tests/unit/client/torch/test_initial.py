"""Training starts from a W of the spread that a layer usually starts with."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn
from weightloom.errors import InvalidInput
from weightloom.fabric.kinds import RandomMatrixHypernet
from weightloom_client.torch import (
    FabricatedEmbedding,
    FabricatedLinear,
    fabricate_module,
    kaiming_std,
    scale_for,
    started,
    weave,
)

SIZES = [(64, 64, 128), (64, 2, 128), (8, 1, 16), (256, 128, 64), (1, 5, 300)]


def spec_of(l: int, r: int, hidden_dim: int, scale: float = 1.0) -> RandomMatrixHypernet:
    return RandomMatrixHypernet(name="fc.weight", shape=(200, 100), l=l, r=r, hidden_dim=hidden_dim, scale=scale)


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("target", [0.02, 1.0])
def test_w_starts_with_the_standard_deviation_asked_for(sizes: tuple[int, int, int], target: float) -> None:
    spec, w = started(spec_of(*sizes), 7, target)
    assert weave(w, spec, 7).std().item() == pytest.approx(target, rel=0.03)


@pytest.mark.parametrize("sizes", SIZES[:2])
def test_the_scale_by_formula_is_right_on_average_over_seeds(sizes: tuple[int, int, int]) -> None:
    formula = scale_for(*sizes, target_std=0.1)
    exact = [started(spec_of(*sizes), seed, 0.1)[0].scale for seed in range(200)]
    # The formula is about the mean square of h, which goes with 1 / scale^2.
    assert formula == pytest.approx(1 / math.sqrt(np.mean(1 / np.square(exact))), rel=0.1)


def test_a_fabricated_layer_starts_as_torchs_own_does() -> None:
    theirs = nn.Linear(300, 400).weight.std().item()
    assert kaiming_std((400, 300)) == pytest.approx(theirs, rel=0.03)
    assert FabricatedLinear(300, 400, name="a", seed=1).weight.std().item() == pytest.approx(theirs, rel=0.03)
    assert FabricatedEmbedding(300, 400, name="a", seed=1).weight.std().item() == pytest.approx(1.0, rel=0.03)


MODULES: dict[str, Callable[[], nn.Module]] = {
    "Linear": lambda: nn.Linear(90, 70),
    "Conv1d": lambda: nn.Conv1d(40, 60, 3, groups=2),
    "ConvTranspose2d": lambda: nn.ConvTranspose2d(40, 60, 3),
    "Embedding": lambda: nn.Embedding(90, 70),
    "EmbeddingBag": lambda: nn.EmbeddingBag(90, 70),
    "Bilinear": lambda: nn.Bilinear(20, 30, 10),
    "RNNCell": lambda: nn.RNNCell(30, 100),
    "LSTMCell": lambda: nn.LSTMCell(30, 40),
    "GRUCell": lambda: nn.GRUCell(100, 40),
    "MultiheadAttention": lambda: nn.MultiheadAttention(80, 2),
    "MultiheadAttention, other keys": lambda: nn.MultiheadAttention(80, 2, kdim=20, vdim=40, add_bias_kv=True),
}


@pytest.mark.parametrize("new", MODULES.values(), ids=MODULES)
def test_the_parameters_of_torchs_modules_start_with_the_spread_that_torch_gives_them(
    new: Callable[[], nn.Module],
) -> None:
    torch.manual_seed(0)
    module = new()
    theirs = {name: value.std().item() for name, value in module.named_parameters() if value.ndim > 1}
    fabricate_module(module, seed=1)
    assert theirs
    for name, expected in theirs.items():
        at, _, parameter = name.rpartition(".")
        own = getattr(module.get_submodule(at), parameter)
        chance = 4 / math.sqrt(own.numel())  # of either's numbers, five times their own standard deviation
        assert own.std().item() == pytest.approx(expected, rel=chance)


def test_the_start_follows_from_seed_and_name_and_not_from_torchs_generator() -> None:
    torch.manual_seed(1)
    first = started(spec_of(8, 4, 16), 5, 0.1)
    torch.manual_seed(2)
    again = started(spec_of(8, 4, 16), 5, 0.1)
    assert first[0] == again[0]
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[1], started(spec_of(8, 4, 16), 6, 0.1)[1])


def test_sizes_below_one_have_no_scale() -> None:
    with pytest.raises(InvalidInput):
        scale_for(64, 0, 128, 0.1)
