"""What l, r, hidden_dim, the spread to begin with and the learning rate do: one at a time around a middle point."""

from __future__ import annotations

import argparse
import time
from typing import NamedTuple

import torch
from digits import NETS, START, STEP, accuracy, fabricated, numbers, steps, train
from train import row


class Point(NamedTuple):
    """What is tried."""

    l: int = 128
    r: int = 128
    hidden_dim: int = 512
    start: float = START
    step: float = STEP


OTHERS = {
    "l": [8, 32, 512],
    "r": [2, 8, 32, 512],
    "hidden_dim": [8, 32, 128, 2048],
    "start": [1.0, 2.0, 8.0],
    "step": [0.03, 0.1, 1.0, 3.0],
}


def points(varied: list[str]) -> list[Point]:
    """The middle point, and those that differ from it by one thing."""
    middle = Point()
    return [middle, *(middle._replace(**{name: value}) for name in varied for value in OTHERS[name])]


def cells(point: Point) -> list[str]:
    """What differs from the middle stands out."""
    return [str(value) if value == usual else f"**{value}**" for value, usual in zip(point, Point(), strict=True)]


def measure(kind: str, point: Point | None, seeds: int, epochs: int) -> None:
    """One row, of the dense net for None. With the seed change factors, w, biases, and the order of the batches."""
    found, spent = [], 0.0
    for seed in range(seeds):
        torch.manual_seed(seed)
        net = fabricated(kind, *point[:3], start=point.start, seed=seed) if point else NETS[kind]()
        began = time.perf_counter()
        train(net, epochs, step=point.step if point else STEP, seed=seed)
        spent += time.perf_counter() - began
        found.append(accuracy(net))
    shown = cells(point) if point else ["dense", *[""] * 4]
    std, mean = torch.std_mean(torch.tensor(found))
    row(*shown, numbers(net), f"{mean:.1%} ± {std:.1%}", f"{1000 * spent / seeds / steps(epochs):.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--net", default="mlp", choices=[*NETS])
    parser.add_argument("--vary", nargs="+", default=[*OTHERS], choices=[*OTHERS])
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=15)
    options = parser.parse_args()
    row(*Point._fields, "numbers trained", "test accuracy", "ms per step")
    row(*["--:"] * 8)
    for point in (None, *points(options.vary)):
        measure(options.net, point, options.seeds, options.epochs)


if __name__ == "__main__":
    main()
