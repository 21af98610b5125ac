"""Fetches people's layers when they are asked for, one by one and many at once, and checks them against training."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from people import accuracies, everybody, net
from torch import nn
from weightloom_client import Bundle, Client
from weightloom_client.torch import load_into


def base_of(bundle: Bundle) -> nn.Sequential:
    """The net for all, from what the device keeps."""
    base = net().requires_grad_(False)
    with Client.local() as client:
        load_into(base, client.fabricate(bundle))
    return base


def check(how: str, weights: np.ndarray, base: nn.Sequential, trained: dict[str, np.ndarray]) -> None:
    """weights (people, 64, 64): they are what was trained, and do as well."""
    assert np.array_equal(weights, trained["weights"])
    fronts = base.front.weight + torch.from_numpy(weights)
    _, checks = everybody(len(weights), int(trained["examples"]))
    found = accuracies(base, fronts, checks)
    assert np.array_equal(found.numpy(), trained["accuracies"])
    print(f"{how}: {found.mean():.1%}, every weight of {len(weights)} people as trained, to the bit")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default="http://localhost:8000")
    parser.add_argument("--folder", type=Path, default=Path("personalised"))
    options = parser.parse_args()

    torch.set_num_threads(1)  # as in training, so that sums are added in the same order
    bundle = Bundle.load(options.folder / "base.bundle")
    base, model = base_of(bundle), bundle.metadata["layer"]
    people = np.load(options.folder / "people.npy", mmap_mode="r")  # only the rows that are used are read
    with np.load(options.folder / "trained.npz") as file:
        trained = dict(file)

    with Client(options.url) as client:
        single = [client.fabricate(model, {"front.weight": w})["front.weight"] for w in people]
        check("one by one", np.stack(single), base, trained)
        together = client.fabricate(model, {"front.weight": people})["front.weight"]
        check("in one request", together, base, trained)


if __name__ == "__main__":
    main()
