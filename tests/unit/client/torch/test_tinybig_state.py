"""The drop-in's state is a tensor, which every file of weights takes; its arguments are what tinyBIG's callers give."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn
from weightloom.errors import InvalidInput, InvalidSpec
from weightloom_client.torch import random_matrix_hypernet_reconciliation


def net_of(name: str, seed: int = 0) -> nn.Sequential:
    return nn.Sequential(random_matrix_hypernet_reconciliation(name, seed=seed), nn.Linear(2, 2))


def weight_of(net: nn.Sequential) -> torch.Tensor:
    made: torch.Tensor = net[0](4, 5, torch.linspace(-1, 1, 64)[None])
    return made


def through_safetensors(state: dict[str, torch.Tensor], path: Path) -> dict[str, torch.Tensor]:
    safetensors.torch.save_file(state, path)
    return safetensors.torch.load_file(path)


def through_torch_save(state: dict[str, torch.Tensor], path: Path) -> dict[str, torch.Tensor]:
    torch.save(state, path)
    loaded: dict[str, torch.Tensor] = torch.load(path, weights_only=True)
    return loaded


@pytest.mark.parametrize("through", [through_safetensors, through_torch_save])
def test_files_of_weights_hold_name_and_seed(through: Any, tmp_path: Path) -> None:
    own, other = net_of("schön.0", seed=2**64 - 1), net_of("another")
    other.load_state_dict(through(own.state_dict(), tmp_path / "saved"))
    assert torch.equal(weight_of(other), weight_of(own))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_code_that_casts_every_tensor_of_a_state_keeps_name_and_seed(dtype: torch.dtype) -> None:
    own, other = net_of("schön.0", seed=2**64 - 1), net_of("another")
    other.load_state_dict({name: value.to(dtype) for name, value in own.state_dict().items()})
    assert torch.equal(weight_of(other), weight_of(own))


@pytest.mark.parametrize("state", [torch.zeros(3, dtype=torch.uint8), torch.zeros(()), {"seed": 1}, None])
def test_what_is_no_such_state_is_refused(state: Any) -> None:
    with pytest.raises(InvalidInput, match="extra state"):
        random_matrix_hypernet_reconciliation().set_extra_state(state)


@pytest.mark.parametrize("kind", [np.int64, torch.tensor])
def test_sizes_may_be_integers_of_numpy_and_torch(kind: Any) -> None:
    own, w = random_matrix_hypernet_reconciliation("a"), torch.linspace(-1, 1, 64)[None]
    assert torch.equal(own(kind(4), kind(5), w), own(4, 5, w))
    assert own.T is not None


@pytest.mark.parametrize("shape", [(64, 1), (2, 32), (64,), (1, 63)])
def test_a_w_that_is_no_row_of_l_numbers_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(AssertionError):
        random_matrix_hypernet_reconciliation("a")(4, 5, torch.zeros(shape))


def test_sizes_that_no_spec_may_have_are_refused_by_name() -> None:
    with pytest.raises(InvalidSpec, match=r"tensors\['a'\]\.shape\[0\]: got 0"):
        random_matrix_hypernet_reconciliation("a")(0, 5, torch.zeros(1, 64))
