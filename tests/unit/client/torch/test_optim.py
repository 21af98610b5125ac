"""Learning rates that fit w's, a start with more or less spread, and what is left as it is."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from weightloom_client.torch import fabricate_module, param_groups


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(300, 200), nn.LayerNorm((2, 100)), nn.Linear(200, 10))


def test_each_w_has_a_rate_that_fits_its_size_and_all_others_their_own() -> None:
    made = fabricate_module(net(), seed=1, l=9, r=4, kinds={"0.weight": "random_matrix_hypernet", "*": "identity"})
    fabricate_module(made, seed=1, l=25, r=16, kinds={"2.weight": "random_matrix_hypernet", "*": "identity"})
    first, second, others = param_groups(made, lr=0.01, step=0.6)
    assert first["lr"] == pytest.approx(0.6 / math.sqrt(9 * 4))
    assert second["lr"] == pytest.approx(0.6 / math.sqrt(25 * 16))
    assert [w.shape for w in first["params"] + second["params"]] == [(9,), (25,)]
    assert (others["lr"], len(others["params"])) == (0.01, 4)
    torch.optim.Adam(param_groups(made, lr=0.01))


def test_tied_weights_come_once() -> None:
    tied = nn.ModuleDict({"embedding": nn.Embedding(20, 8), "head": nn.Linear(8, 20, bias=False)})
    tied["head"].weight = tied["embedding"].weight
    groups = param_groups(fabricate_module(tied, seed=1, l=4, r=4), lr=0.01)
    assert [len(group["params"]) for group in groups] == [1, 0]
    torch.optim.SGD(groups)


def test_gain_widens_the_usual_start_but_not_one_that_was_asked_for() -> None:
    stds = [
        fabricate_module(net(), seed=1, r=64, gain=gain, stds={"2.*": 0.5})[0].weight.std().item() for gain in (1, 4)
    ]
    assert stds[1] == pytest.approx(4 * stds[0], rel=1e-4)
    asked = fabricate_module(net(), seed=1, r=64, gain=4, stds={"2.*": 0.5})[2].weight.std().item()
    assert asked == pytest.approx(0.5, rel=0.1)


def test_norms_stay_as_they_are_whatever_their_dimensions() -> None:
    made = fabricate_module(net(), seed=1)
    assert torch.equal(made[1].weight, torch.ones(2, 100))
    assert made.state_dict().keys() >= {"1.weight", "1.bias"}
