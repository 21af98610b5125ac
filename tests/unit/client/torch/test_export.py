"""The file that a server makes of ``model_spec`` and ``w_of`` holds the net's own weights, bit for bit."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm
from weightloom.errors import InvalidInput
from weightloom.fabric.dtypes import DType
from weightloom.fabric.virtual_file import VirtualFile
from weightloom_client.torch import FabricatedLinear, fabricate_module, model_spec, w_of


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 16), nn.LayerNorm(16), nn.GELU(), nn.Linear(16, 3))


def cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.Flatten(), nn.Linear(64, 2)
    )


def words() -> nn.Module:
    return nn.Sequential(nn.Embedding(30, 6), nn.TransformerEncoderLayer(6, 2, 12, batch_first=True, dropout=0.0))


NETS = [(mlp, torch.randn(5, 4)), (cnn, torch.randn(5, 3, 8, 8)), (words, torch.arange(10).reshape(2, 5))]


def trained(make: Callable[[], nn.Module], x: torch.Tensor) -> nn.Module:
    torch.manual_seed(0)
    net = fabricate_module(make(), seed=11, l=8, r=4, hidden_dim=16)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for _ in range(2):
        net(x).square().mean().backward()
        optimizer.step()
    return net


def served(net: nn.Module) -> dict[str, torch.Tensor]:
    file = VirtualFile(model_spec(net, "trained"), w_of(net))
    return safetensors.torch.load(file.read(0, file.size))


@pytest.mark.parametrize(("make", "x"), NETS, ids=["mlp", "cnn", "words"])
def test_a_plain_net_with_the_served_file_is_the_trained_one(make: Callable[[], nn.Module], x: torch.Tensor) -> None:
    net, plain = trained(make, x), make()
    missing = plain.load_state_dict(served(net), strict=False)
    assert missing.unexpected_keys == []
    assert all(key.endswith("num_batches_tracked") for key in missing.missing_keys)
    for name, value in plain.state_dict().items():
        if value.is_floating_point():
            at, _, last = name.rpartition(".")
            own = getattr(net.get_submodule(at), last).detach()
            assert own.numpy().tobytes() == value.numpy().tobytes(), name
    net.eval(), plain.eval()
    with torch.no_grad():
        assert torch.equal(net(x), plain(x))


def test_w_is_small_where_the_weights_are_fabricated() -> None:
    net = trained(*NETS[1])
    lengths = {name: w.shape for name, w in w_of(net).items()}
    assert lengths["0.weight"] == lengths["3.weight"] == lengths["5.weight"] == (8,)
    assert lengths["1.running_var"] == (8,)
    assert "1.num_batches_tracked" not in lengths


def test_what_is_exported_is_a_copy() -> None:
    net = trained(*NETS[0])
    w = w_of(net)
    w["1.bias"][:] = 7.0
    assert not np.array_equal(w_of(net)["1.bias"], w["1.bias"])


def test_a_tied_weight_is_served_once_under_its_first_name() -> None:
    words, head = nn.Embedding(20, 6), nn.Linear(6, 20, bias=False)
    head.weight = words.weight
    net = fabricate_module(nn.Sequential(words, head), seed=1, l=4, r=4, hidden_dim=8)
    assert served(net).keys() == {"0.weight"}
    assert torch.equal(served(net)["0.weight"], head.weight)


def test_a_net_of_nothing_fabricated_is_served_too() -> None:
    net = mlp()
    assert all(torch.equal(value, net.state_dict()[name]) for name, value in served(net).items())


@pytest.mark.parametrize(
    ("net", "told"),
    [
        (nn.Sequential(FabricatedLinear(2, 3, name="fc.weight", seed=1)), "fc.weight"),
        (nn.Sequential(*(FabricatedLinear(2, 2, name=f"{i}.weight", seed=i) for i in (0, 1))), "seed"),
        (weight_norm(nn.Linear(2, 3)), "parametrisation"),
    ],
    ids=["another name", "two seeds", "other parametrisations"],
)
def test_a_net_that_no_file_would_equal_is_refused(net: nn.Module, told: str) -> None:
    with pytest.raises(InvalidInput, match=told):
        model_spec(net, "m")


@pytest.mark.parametrize(("dtype", "name"), [(torch.float16, DType.F16), (torch.bfloat16, DType.BF16)])
def test_a_net_of_16_bits_is_the_file_served_in_its_dtype(dtype: torch.dtype, name: DType) -> None:
    net, plain = trained(*NETS[0]).to(dtype), mlp().to(dtype)
    file = VirtualFile(model_spec(net, "trained"), w_of(net), dtype=name)
    plain.load_state_dict(safetensors.torch.load(file.read(0, file.size)))
    x = torch.randn(5, 4, dtype=dtype)
    assert torch.equal(net(x), plain(x))
