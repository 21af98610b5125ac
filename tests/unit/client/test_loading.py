"""Fetched weights in torch."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from torch.nn.utils import parametrizations, parametrize
from weightloom.errors import InvalidInput
from weightloom_client.torch.loading import load_into, to_torch


def net() -> torch.nn.Sequential:
    return torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))


def arrays_for(module: torch.nn.Module) -> dict[str, Any]:
    """Other numbers for all floating tensors of a module."""
    state = {name: tensor for name, tensor in module.state_dict().items() if tensor.is_floating_point()}
    return {name: np.full(t.shape, i + 1, np.float32) for i, (name, t) in enumerate(state.items())}


class Tied(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = torch.nn.Embedding(4, 3), torch.nn.Linear(3, 4, bias=False)
        self.head.weight = self.embed.weight


class Doubled(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * x


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [(np.float32, torch.float32), (np.float16, torch.float16), (ml_dtypes.bfloat16, torch.bfloat16)],
)
def test_tensors_share_the_arrays_memory(dtype: Any, expected: torch.dtype) -> None:
    array = np.ones((2, 3), dtype)
    tensor = to_torch({"x": array})["x"]
    assert tensor.dtype == expected
    assert tensor.shape == (2, 3)
    array[1, 2] = 7
    assert tensor[1, 2] == 7


def test_what_torch_cannot_share_is_copied() -> None:
    locked = np.ones(3, np.float32)
    locked.flags.writeable = False
    tensors = to_torch({"locked": locked, "backwards": np.arange(3.0)[::-1], "scalar": np.array(2, ml_dtypes.bfloat16)})
    tensors["locked"][0] = 5
    assert locked[0] == 1
    assert tensors["backwards"].tolist() == [2, 1, 0]
    assert tensors["scalar"].shape == ()


def test_a_module_is_filled_and_its_counters_are_not_missed() -> None:
    module = net()
    parameters = list(module.parameters())
    load_into(module, arrays_for(module))
    assert torch.equal(module[0].weight, torch.ones(2, 3))
    assert module[1].running_var.tolist() == [6, 6]  # type: ignore[operator, union-attr]
    assert all(a is b for a, b in zip(parameters, module.parameters(), strict=True))


def test_a_module_keeps_its_dtype() -> None:
    module = torch.nn.Linear(3, 2).to(torch.bfloat16)
    load_into(module, arrays_for(module))
    assert module.weight.dtype == torch.bfloat16
    assert module.weight.requires_grad
    assert module.bias.tolist() == [2, 2]


def test_all_that_is_wrong_is_told_at_once_and_nothing_is_changed() -> None:
    module = net()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    arrays = arrays_for(module) | {"0.weight": np.ones((1, 2, 3)), "stray": np.ones(1)}
    del arrays["1.running_mean"]
    with pytest.raises(InvalidInput) as caught:
        load_into(module, arrays)
    assert [(v.field, v.got) for v in caught.value.violations] == [
        ("0.weight", "shape [1, 2, 3]"),
        ("stray", "an array"),
        ("1.running_mean", "nothing"),
    ]
    assert all(violation.field in str(caught.value) for violation in caught.value.violations)
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())


def test_not_strict_takes_what_fits_by_name_but_no_other_shape() -> None:
    module = net()
    load_into(module, {"0.bias": np.ones(2, np.float32), "stray": np.ones(1)}, strict=False)
    assert module[0].bias.tolist() == [1, 1]  # type: ignore[operator, union-attr]
    with pytest.raises(InvalidInput, match=r"0\.bias: got shape \[3\], expected shape \[2\]"):
        load_into(module, {"0.bias": np.ones(3, np.float32)}, strict=False)


def test_floats_do_not_go_into_a_counter() -> None:
    with pytest.raises(InvalidInput, match=r"num_batches_tracked: got float64, expected torch\.int64"):
        load_into(net(), {"1.num_batches_tracked": np.array(1.5)}, strict=False)


def test_assign_takes_the_arrays_memory_for_a_module_on_the_meta_device() -> None:
    with torch.device("meta"):
        module = Tied()
    array = np.ones((4, 3), np.float32)
    with pytest.raises(InvalidInput, match="meta device, expected assign=True"):
        load_into(module, {"embed.weight": array})
    load_into(module, {"embed.weight": array}, assign=True)
    array[0, 0] = 9
    assert module.head.weight[0, 0] == 9
    assert module.head.weight is module.embed.weight
    assert module.head.weight.requires_grad


def test_one_name_of_a_tied_tensor_is_enough_and_two_must_agree() -> None:
    module = Tied()
    ones = np.ones((4, 3), np.float32)
    load_into(module, {"head.weight": ones})
    assert torch.equal(module.embed.weight, torch.ones(4, 3))
    load_into(module, {"head.weight": ones, "embed.weight": ones})
    with pytest.raises(InvalidInput, match=r"head\.weight: got other numbers, expected those of 'embed\.weight'"):
        load_into(module, {"embed.weight": ones, "head.weight": 2 * ones})


def test_a_parametrised_tensor_comes_under_its_plain_name_or_under_its_parts() -> None:
    module = torch.nn.Sequential(parametrizations.weight_norm(torch.nn.Linear(3, 2)))
    weight = np.arange(1, 7, dtype=np.float32).reshape(2, 3)
    load_into(module, {"0.weight": weight, "0.bias": np.zeros(2, np.float32)})
    assert torch.allclose(module[0].weight, torch.from_numpy(weight))
    load_into(module, arrays_for(module))
    assert module[0].bias.tolist() == [1, 1]  # type: ignore[operator, union-attr]


def test_a_parametrisation_without_an_inverse_is_named_before_anything_changes() -> None:
    module = torch.nn.Linear(3, 2)
    parametrize.register_parametrization(module, "weight", Doubled())
    before = module.bias.detach().clone()
    with pytest.raises(InvalidInput, match="weight: got a tensor parametrised by Doubled"):
        load_into(module, {"weight": np.ones((2, 3), np.float32), "bias": np.ones(2, np.float32)})
    assert torch.equal(module.bias, before)
