"""torch.compile works with fabricated nets: of the net alone, and of a whole training step."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import nn
from weightloom_client.torch import fabricate_module, set_keep_t_bytes


def fabricated_mlp() -> nn.Module:
    net = nn.Sequential(nn.Linear(4, 16), nn.LayerNorm(16), nn.Tanh(), nn.Linear(16, 1))
    return fabricate_module(net, seed=3, l=8, r=8, hidden_dim=16)


def w_in(net: nn.Module, at: str) -> nn.Parameter:
    return net.get_parameter(f"{at}.original")


def test_a_compiled_net_computes_and_learns_as_the_net_does() -> None:
    net, x = fabricated_mlp(), torch.randn(3, 4)
    compiled = torch.compile(net, backend="aot_eager")
    torch.testing.assert_close(compiled(x), net(x))
    compiled(x).sum().backward()
    w = w_in(net, "0.parametrizations.weight")
    by_compiled, w.grad = w.grad, None
    net(x).sum().backward()
    torch.testing.assert_close(by_compiled, w.grad)
    with torch.no_grad():
        w.add_(1.0)
    torch.testing.assert_close(compiled(x), net(x))


@pytest.fixture
def nothing_kept() -> Iterator[None]:
    set_keep_t_bytes(0)
    yield
    set_keep_t_bytes(64 << 20)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # torch's, at any graph break
@pytest.mark.usefixtures("nothing_kept")
def test_a_whole_training_step_can_be_compiled() -> None:
    net, plain, x = fabricated_mlp(), fabricated_mlp(), torch.randn(3, 4)
    plain.load_state_dict(net.state_dict())

    def step(net: nn.Module) -> torch.Tensor:
        loss: torch.Tensor = net(x).square().mean()
        torch.autograd.backward(loss)
        return loss.detach()

    compiled = torch.compile(step, backend="eager")
    for _ in range(2):
        torch.testing.assert_close(compiled(net), step(plain))
    for one, other in zip(net.parameters(), plain.parameters(), strict=True):
        assert other.grad is not None
        torch.testing.assert_close(one.grad, other.grad)
