"""Nets with fabricated weights train, and are saved as their w's."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize
from weightloom.errors import InvalidInput
from weightloom_client.torch import FabricatedConv2d, FabricatedEmbedding, FabricatedLinear, fabricate_module

SIZES: dict[str, Any] = {"seed": 3, "l": 8, "r": 8, "hidden_dim": 16}


def linear(net: nn.Module, at: str) -> nn.Linear:
    layer = net.get_submodule(at)
    assert isinstance(layer, nn.Linear)
    return layer


def mlp() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 16), nn.LayerNorm(16), nn.Tanh(), nn.Linear(16, 1))


def fabricated_mlp() -> nn.Module:
    return fabricate_module(mlp(), **SIZES)


def w_in(net: nn.Module, at: str) -> nn.Parameter:
    return net.get_parameter(f"{at}.original")


def test_a_net_trains_through_its_w_alone() -> None:
    torch.manual_seed(0)
    net, x = fabricated_mlp(), torch.randn(64, 4)
    y = x[:, :1] * x[:, 1:2]
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    losses = []
    for _ in range(150):
        loss = nn.functional.mse_loss(net(x), y)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_the_state_dict_holds_only_ws_and_what_was_left_plain() -> None:
    sizes = {key: value.numel() for key, value in fabricated_mlp().state_dict().items()}
    assert sizes == {
        "0.bias": 16,
        "0.parametrizations.weight.original": 8,
        "1.weight": 16,
        "1.bias": 16,
        "3.bias": 1,
        "3.parametrizations.weight.original": 8,
    }


def test_a_state_dict_gives_the_same_weights_to_a_net_built_anew() -> None:
    torch.manual_seed(1)
    trained = fabricated_mlp()
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter.add_(torch.randn_like(parameter))
    torch.manual_seed(2)
    again = fabricated_mlp()
    again.load_state_dict(trained.state_dict())
    for at in "03":
        assert torch.equal(linear(again, at).weight, linear(trained, at).weight)


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_the_weight_follows_w_at_once(mode: str) -> None:
    layer = FabricatedLinear(5, 6, name="a", **SIZES).train(mode == "train")
    with torch.no_grad():
        before = layer.weight.clone()
        w_in(layer, "parametrizations.weight").add_(1.0)
        assert not torch.equal(layer.weight, before)
        w_in(layer, "parametrizations.weight").sub_(1.0)
    torch.testing.assert_close(layer.weight, before)


def test_layers_take_the_arguments_of_torchs_own_and_compute_what_those_would() -> None:
    linear = FabricatedLinear(5, 6, name="a", bias=False, **SIZES)
    conv = FabricatedConv2d(4, 6, (3, 2), name="b", stride=2, padding=1, groups=2, **SIZES)
    embedding = FabricatedEmbedding(10, 4, name="c", padding_idx=0, **SIZES)
    x, image, index = torch.randn(2, 5), torch.randn(2, 4, 9, 9), torch.tensor([1, 0, 9])
    assert torch.equal(linear(x), x @ linear.weight.T)
    expected = nn.functional.conv2d(image, conv.weight, conv.bias, stride=2, padding=1, groups=2)
    assert torch.equal(conv(image), expected)
    assert torch.equal(embedding(index), embedding.weight[index])
    assert isinstance(linear, nn.Linear)


def test_a_scale_that_is_given_is_the_one_used() -> None:
    one, two = (FabricatedLinear(5, 6, name="a", scale=scale, **SIZES) for scale in (1.0, 2.0))
    assert torch.equal(2 * one.weight, two.weight)


def test_patterns_say_what_is_fabricated_and_how_it_starts() -> None:
    second = nn.Linear(40, 50)
    net = nn.Sequential(nn.Linear(30, 40), second, nn.LayerNorm(50))
    kinds = {"0.*": "identity", "2.weight": "random_matrix_hypernet"}
    fabricate_module(net, kinds=kinds, stds={"1.*": 0.5}, **SIZES)
    assert [parametrize.is_parametrized(layer) for layer in net] == [False, True, True]
    assert second.weight.std().item() == pytest.approx(0.5, rel=0.1)


def test_an_optimizer_that_was_made_before_goes_on_with_the_ws() -> None:
    net = mlp()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    fabricate_module(net, **SIZES)
    w = w_in(net, "0.parametrizations.weight")
    before = w.detach().clone()
    net(torch.randn(3, 4)).sum().backward()
    optimizer.step()
    assert not torch.equal(w, before)


def test_tied_weights_stay_tied() -> None:
    words, head = nn.Embedding(20, 6), nn.Linear(6, 20)
    head.weight = words.weight
    net = fabricate_module(nn.Sequential(words, head), **SIZES)
    assert torch.equal(words.weight, head.weight)
    net(torch.tensor([1, 2])).sum().backward()
    assert len([*net.parameters()]) == 2


@pytest.mark.parametrize("net", [nn.LSTM(3, 4), nn.Embedding(3, 4, max_norm=1.0), fabricated_mlp()])
def test_what_cannot_be_fabricated_is_refused_and_left_as_it_was(net: nn.Module) -> None:
    both = nn.Sequential(nn.Linear(2, 3), net)
    before = {name: value.clone() for name, value in both.state_dict().items()}
    with pytest.raises(InvalidInput):
        fabricate_module(both, kinds={"*": "random_matrix_hypernet"}, **SIZES)
    after = both.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_a_fabricated_weight_cannot_be_assigned() -> None:
    layer = FabricatedLinear(5, 6, name="a", **SIZES)
    with pytest.raises(TypeError, match="fabricated"):
        layer.weight = torch.zeros(6, 5)
