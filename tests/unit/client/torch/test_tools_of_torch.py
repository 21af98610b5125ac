"""What else torch does with nets works with fabricated ones: copies, autocast, distributed training."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import parametrize
from weightloom_client.torch import fabricate_module


def fabricated_mlp() -> nn.Module:
    net = nn.Sequential(nn.Linear(4, 16), nn.LayerNorm(16), nn.Tanh(), nn.Linear(16, 1))
    return fabricate_module(net, seed=3, l=8, r=8, hidden_dim=16)


def w_in(net: nn.Module, at: str) -> nn.Parameter:
    return net.get_parameter(f"{at}.original")


def through_torch_save(net: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(net, file)
    file.seek(0)
    loaded: nn.Module = torch.load(file, weights_only=False)
    return loaded


def through_pickle(net: nn.Module) -> nn.Module:
    loaded: nn.Module = pickle.loads(pickle.dumps(net))
    return loaded


@pytest.mark.parametrize("duplicate", [copy.deepcopy, through_pickle, through_torch_save])
def test_copies_compute_the_same_and_are_independent(duplicate: Any) -> None:
    net, x = fabricated_mlp(), torch.randn(3, 4)
    twin = duplicate(net)
    assert torch.equal(twin(x), net(x))
    twin(x).sum().backward()
    assert w_in(net, "0.parametrizations.weight").grad is None
    assert w_in(twin, "0.parametrizations.weight").grad is not None
    assert torch.equal(duplicate(twin)(x), net(x))
    assert twin.state_dict().keys() == net.state_dict().keys()


def test_autocast_uses_the_weights_in_its_dtype_and_trains_float32_ws() -> None:
    net = fabricated_mlp()
    with torch.autocast("cpu", torch.bfloat16):
        y = net(torch.randn(3, 4))
    assert y.dtype == torch.bfloat16
    y.float().sum().backward()
    gradient = w_in(net, "0.parametrizations.weight").grad
    assert gradient is not None
    assert gradient.dtype == torch.float32
    assert gradient.abs().sum() > 0


def test_infinite_gradients_pass_as_gradscaler_needs_them() -> None:
    net = fabricated_mlp()
    y = net(torch.randn(3, 4))
    y.backward(torch.full_like(y, float("inf")))
    gradient = w_in(net, "3.parametrizations.weight").grad
    assert gradient is not None
    assert not gradient.isfinite().any()


def test_weights_that_are_cached_for_a_forward_give_the_same_outputs_and_gradients() -> None:
    net = fabricate_module(nn.MultiheadAttention(16, 2), seed=3, l=8, r=8, hidden_dim=16)
    x = torch.randn(5, 2, 16)

    def outputs_and_gradients() -> list[torch.Tensor]:
        y = net(x, x, x)[0]
        return [y, *torch.autograd.grad(y.square().sum(), [*net.parameters()])]

    with parametrize.cached():
        cached = outputs_and_gradients()
    plain = outputs_and_gradients()
    assert torch.equal(cached[0], plain[0])
    torch.testing.assert_close(cached, plain)


def test_a_shallow_copy_is_refused_in_words() -> None:
    layer = fabricate_module(nn.Linear(3, 4), seed=3, l=8, r=8, hidden_dim=16)
    for each in (layer, through_pickle(layer)):
        with pytest.raises(TypeError, match=r"copy\.deepcopy"):
            copy.copy(each)


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[None]:
    torch.distributed.init_process_group("gloo", init_method=(tmp_path / "store").as_uri(), rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.usefixtures("alone")
def test_a_distributed_net_gets_the_gradients_of_the_net() -> None:
    net, x = fabricated_mlp(), torch.randn(3, 4)
    net(x).sum().backward()
    expected = [parameter.grad for parameter in net.parameters()]
    net.zero_grad()
    DistributedDataParallel(net)(x).sum().backward()
    for parameter, gradient in zip(net.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)


def test_a_function_of_the_parameters_can_be_had() -> None:
    net, x = fabricated_mlp(), torch.randn(3, 4)
    parameters = {name: value.detach() for name, value in net.named_parameters()}
    assert torch.equal(torch.func.functional_call(net, parameters, x), net(x))
