"""Trains a net for all and a w for each of many people, keeps both, and registers the one model of all the w's."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from people import Writings, accuracies, everybody, logits, net, train_base
from torch import nn
from torch.nn.functional import cross_entropy
from weightloom_client import Bundle, Client, ModelSpec
from weightloom_client.torch import kaiming_std, model_spec, started, w_of, weave

SEED = 1
SHAPE = (64, 64)
START, STEP = 4.0, 0.3  # as in examples/digits; docs/training.md says why


def sizes(text: str) -> tuple[int, int, int]:
    l, r, hidden_dim = map(int, text.split(","))
    return l, r, hidden_dim


def layer(l: int, r: int, hidden_dim: int) -> tuple[ModelSpec, torch.Tensor]:
    """The model of everyone's layer, and the w (l,) from which all people start."""

    def model(scale: float) -> ModelSpec:
        name = f"examples/personalised-{l}-{r}-{hidden_dim}"
        shapes = {"front.weight": SHAPE}
        return ModelSpec.from_shapes(shapes, name=name, seed=SEED, l=l, r=r, hidden_dim=hidden_dim, scale=scale)

    tensor, w = started(model(1.0).tensors[0], SEED, START * kaiming_std(SHAPE))
    return model(tensor.scale), w


def train(
    base: nn.Sequential,
    start: torch.Tensor,
    fronts: Callable[[torch.Tensor], torch.Tensor],
    learning_rate: float,
    examples: Writings,
    steps: int,
) -> torch.Tensor:
    """For each person the numbers (people, …) of which ``fronts`` makes the front (people, 64, 64), from ``start``.

    All are trained at once, and yet each as if it were alone: Adam treats every number by itself, and no person's
    numbers have a part in another one's loss.
    """
    people, n = examples.y.shape
    trained = start.repeat(people, *[1] * start.ndim).requires_grad_()
    optimizer = torch.optim.Adam([trained], lr=learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        optimizer.zero_grad()
        scores = logits(base, fronts(trained), examples.x)
        (cross_entropy(scores.flatten(0, 1), examples.y.flatten(), reduction="sum") / n).backward()
        optimizer.step()
        schedule.step()
    return trained.detach()


def report(what: str, before: torch.Tensor, after: torch.Tensor) -> None:
    better, worse = ((after > before).float().mean(), (after < before).float().mean())
    print(f"{what}: {after.mean():.1%}; better for {better:.0%}, worse for {worse:.0%} of the people")


def keep(folder: Path, base: nn.Sequential, spec: ModelSpec, ws: torch.Tensor) -> None:
    """Save the net for all as a bundle, and all w's as one array, of which one person's can be read alone."""
    folder.mkdir(parents=True, exist_ok=True)
    Bundle(model_spec(base, "examples/base"), w_of(base), {"layer": spec.name}).save(folder / "base.bundle")
    np.save(folder / "people.npy", ws.numpy())
    one = sum(parameter.numel() for parameter in base[1:].parameters())
    print(f"{folder}/base.bundle, for all: {(folder / 'base.bundle').stat().st_size:,} bytes")
    print(f"{folder}/people.npy, the w's of {len(ws)} people: {(folder / 'people.npy').stat().st_size:,} bytes")
    print(f"  as dense copies of this layer: {4 * len(ws) * math.prod(SHAPE):,} bytes")
    print(f"  as dense copies of the net without it: {4 * len(ws) * one:,} bytes")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default="http://localhost:8000")
    parser.add_argument("--people", type=int, default=300)
    parser.add_argument("--examples", type=int, default=100, help="images of each person to train with")
    parser.add_argument("--sizes", type=sizes, default=sizes("128,128,512"), metavar="L,R,HIDDEN_DIM")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--folder", type=Path, default=Path("personalised"))
    options = parser.parse_args()

    torch.manual_seed(0)
    torch.set_num_threads(1)  # sums are added in one order, so that a seed gives one result
    examples, checks = everybody(options.people, options.examples)
    base = net()
    train_base(base)
    before = accuracies(base, base.front.weight.expand(options.people, *SHAPE), checks)
    print(f"the net for all: {before.mean():.1%} of people's digits")
    dense = train(base, base.front.weight, lambda fronts: fronts, 0.003, examples, options.steps)
    report(f"a dense layer each ({math.prod(SHAPE):,} numbers)", before, accuracies(base, dense, checks))

    spec, first = layer(*options.sizes)
    tensor = spec.tensors[0]
    base.front.weight -= weave(first, tensor, SEED)  # so that the first w gives the front that there was
    rate = STEP / math.sqrt(tensor.l * tensor.r)
    ws = train(base, first, lambda ws: base.front.weight + weave(ws, tensor, SEED), rate, examples, options.steps)
    trained = weave(ws, tensor, SEED)
    after = accuracies(base, base.front.weight + trained, checks)
    report(f"a w each ({tensor.l} numbers)", before, after)

    keep(options.folder, base, spec, ws)
    # Only so that fetch.py can show that the very same weights come back.
    np.savez(
        options.folder / "trained.npz",
        weights=trained.numpy(),
        accuracies=after.numpy(),
        examples=options.examples,
    )
    with Client(options.url) as client:
        client.create_model(spec)
    print(f"registered {spec.name} at {options.url}")


if __name__ == "__main__":
    main()
