"""What the programs of this folder share: the data, two nets, training, and how good a net is."""

from __future__ import annotations

from operator import attrgetter

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy
from weightloom_client.torch import fabricate_module, param_groups

TEST = 500  # of 1797 images
BATCH = 64
# docs/training.md says why these two, with figures.
START = 4.0  # W's standard deviation to begin with, in those that torch's own layers begin with
STEP = 0.3  # the learning rate of a w, in standard deviations of its first numbers


def data() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Images (N, 1, 8, 8) from 0 to 1 and their digits: those to train with, and those to test with."""
    digits = load_digits()
    x = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16
    y = torch.tensor(digits.target)
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(0))
    test, train = order[:TEST], order[TEST:]
    return x[train], y[train], x[test], y[test]


def mlp() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))


def cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(32 * 4 * 4, 10),
    )


NETS = {"mlp": mlp, "cnn": cnn}


def fabricated(kind: str, l: int, r: int, hidden_dim: int, *, start: float = START, seed: int = 1) -> nn.Module:
    """The net with each weight woven from l numbers; its biases stay as they are."""
    return fabricate_module(NETS[kind](), seed=seed, l=l, r=r, hidden_dim=hidden_dim, gain=start)


def weights(net: nn.Module, kind: str) -> dict[str, torch.Tensor]:
    """The tensors as a plain net has them: of a fabricated weight W, not w."""
    return {name: attrgetter(name)(net).detach() for name in NETS[kind]().state_dict()}


def train(net: nn.Module, epochs: int, *, learning_rate: float = 0.01, step: float = STEP, seed: int = 0) -> None:
    """Adam with learning rates that fall to zero: the same loop for dense and fabricated nets."""
    x, y, *_ = data()
    torch.set_num_threads(1)  # sums are added in one order, so that a seed gives one net
    shuffle = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(param_groups(net, lr=learning_rate, step=step))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    for _ in range(epochs):
        for batch in torch.randperm(len(y), generator=shuffle).split(BATCH):
            optimizer.zero_grad()
            cross_entropy(net(x[batch]), y[batch]).backward()
            optimizer.step()
        schedule.step()


def steps(epochs: int) -> int:
    """Of ``train``."""
    return epochs * len(data()[1].split(BATCH))


@torch.no_grad()
def logits(net: nn.Module) -> torch.Tensor:
    return net(data()[2])


def accuracy(net: nn.Module) -> float:
    """Share of the test images whose digit the net finds."""
    return (logits(net).argmax(1) == data()[3]).float().mean().item()


def numbers(net: nn.Module) -> int:
    """How many numbers are trained."""
    return sum(parameter.numel() for parameter in net.parameters())
