"""Arrays for parametrised tensors, on the meta device and off it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations
from weightloom.errors import InvalidInput
from weightloom_client.torch import fabricate_module, functional, load_into

ARRAYS = {"weight": np.ones((4, 3), np.float32), "bias": np.zeros(4, np.float32)}


def fabricated(**linear: Any) -> nn.Module:
    return fabricate_module(nn.Linear(3, 4, **linear), seed=1, l=8, r=8, hidden_dim=16)


@pytest.mark.parametrize("assign", [True, False])
def test_a_parametrised_tensor_on_the_meta_device_is_refused_under_its_plain_name(assign: bool) -> None:
    module = parametrizations.weight_norm(nn.Linear(3, 4, device="meta"))
    with pytest.raises(InvalidInput, match="weight: got a parametrised tensor on the meta device"):
        load_into(module, ARRAYS, assign=assign)
    assert module.bias.is_meta


def test_it_may_come_as_its_parts() -> None:
    module = parametrizations.weight_norm(nn.Linear(3, 4, device="meta"))
    parts = parametrizations.weight_norm(nn.Linear(3, 4))
    load_into(module, {name: value.numpy() for name, value in parts.state_dict().items()}, assign=True)
    assert torch.equal(module.weight, parts.weight)


@pytest.mark.parametrize("assign", [True, False])
def test_a_fabricated_tensor_takes_no_value_on_the_meta_device_either(assign: bool) -> None:
    with pytest.raises(InvalidInput, match="weight: got a tensor parametrised by Fabricated"):
        load_into(fabricated(device="meta"), ARRAYS, assign=assign)


def test_a_fabricated_tensor_is_refused_without_being_woven(monkeypatch: pytest.MonkeyPatch) -> None:
    module = fabricated()
    monkeypatch.setattr(functional, "_Weave", None)
    with pytest.raises(InvalidInput, match="weight: got a tensor parametrised by Fabricated"):
        load_into(module, ARRAYS)
