"""What the programs of this folder share: people who write in their own ways, a net for all, a layer for each."""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import NamedTuple

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import affine_grid, cross_entropy, grid_sample

TEST = 500  # of 1797 images
CHECKS = 100  # images by which a person's layer is judged
BASE_EPOCHS = 30


class Writings(NamedTuple):
    """What people wrote: images (people, n, 64) from 0 to 1, and their digits (people, n)."""

    x: torch.Tensor
    y: torch.Tensor


def images() -> tuple[Writings, Writings]:
    """The data, as of one person (n, 64) and (n,): what to train with, and what to test with."""
    digits = load_digits()
    x, y = torch.tensor(digits.images, dtype=torch.float32).flatten(1) / 16, torch.tensor(digits.target)
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(0))
    test, train = order[:TEST], order[TEST:]
    return Writings(x[train], y[train]), Writings(x[test], y[test])


def written(x: torch.Tensor, turns: torch.Tensor, slants: torch.Tensor) -> torch.Tensor:
    """Images (n, 64), each turned by an angle and slanted: ``turns`` and ``slants`` (n,)."""
    zeros, ones = torch.zeros_like(turns), torch.ones_like(turns)
    slant = torch.stack([ones, slants, zeros, ones], 1).view(-1, 2, 2)
    turn = torch.stack([turns.cos(), -turns.sin(), turns.sin(), turns.cos()], 1).view(-1, 2, 2)
    moves = torch.cat([turn @ slant, torch.zeros(len(x), 2, 1)], 2)
    grid = affine_grid(moves, [len(x), 1, 8, 8], align_corners=False)
    return grid_sample(x.view(-1, 1, 8, 8), grid, align_corners=False).flatten(1)


def everybody(people: int, examples: int) -> tuple[Writings, Writings]:
    """For each person, who turns by up to 60 degrees and slants, examples to train with and checks to test with."""
    chance = torch.Generator().manual_seed(1)
    turns = math.radians(60) * (2 * torch.rand(people, generator=chance) - 1)
    slants = 0.6 * (2 * torch.rand(people, generator=chance) - 1)

    def by(source: Writings, n: int) -> Writings:
        chosen = torch.stack([torch.randperm(len(source.y), generator=chance)[:n] for _ in range(people)])
        x = written(source.x[chosen.flatten()], turns.repeat_interleave(n), slants.repeat_interleave(n))
        return Writings(x.view(people, n, 64), source.y[chosen])

    train, test = images()
    return by(train, examples), by(test, CHECKS)


def net() -> nn.Sequential:
    """A net for all, and in front of it the layer that each person has of their own."""
    layers = {
        "front": nn.Linear(64, 64, bias=False),
        "hidden": nn.Linear(64, 128),
        "relu": nn.ReLU(),
        "out": nn.Linear(128, 10),
    }
    return nn.Sequential(OrderedDict(layers))


def train_base(base: nn.Sequential) -> None:
    """Train all but the front, which is set to pass images on as they are, on writings turned by up to 15 degrees."""
    nn.init.eye_(base.front.weight)
    base.front.requires_grad_(False)
    (x, y), _ = images()
    optimizer = torch.optim.Adam(filter(lambda each: each.requires_grad, base.parameters()), lr=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, BASE_EPOCHS)
    for _ in range(BASE_EPOCHS):
        for batch in torch.randperm(len(y)).split(64):
            turns = math.radians(15) * (2 * torch.rand(len(batch)) - 1)
            optimizer.zero_grad()
            cross_entropy(base(written(x[batch], turns, torch.zeros(len(batch)))), y[batch]).backward()
            optimizer.step()
        schedule.step()
    base.requires_grad_(False)


def logits(base: nn.Sequential, fronts: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Each person's images (people, n, 64) through that person's front (people, 64, 64), then the net for all."""
    return base[1:](torch.bmm(x, fronts.mT))


@torch.no_grad()
def accuracies(base: nn.Sequential, fronts: torch.Tensor, checks: Writings) -> torch.Tensor:
    """By person (people,): the share of their digits that the net finds."""
    return (logits(base, fronts, checks.x).argmax(2) == checks.y).float().mean(1)
