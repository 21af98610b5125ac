"""Trains one fabricated net, keeps it as a bundle of a few kilobytes, and registers its model with a server."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from digits import NETS, accuracy, fabricated, logits, train, weights
from train import sizes
from weightloom_client import Bundle, Client
from weightloom_client.torch import model_spec, w_of


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default="http://localhost:8000")
    parser.add_argument("--net", default="cnn", choices=[*NETS])
    parser.add_argument("--sizes", type=sizes, default=sizes("256,256,1024"), metavar="L,R,HIDDEN_DIM")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--bundle", type=Path, default=Path("digits.bundle"))
    options = parser.parse_args()

    torch.manual_seed(0)
    net = fabricated(options.net, *options.sizes)
    train(net, options.epochs)
    print(f"trained: {accuracy(net):.1%} of the test images")

    # A model is known by seed, shapes and sizes; w is no part of it. So the name says what decides it.
    name = f"examples/digits-{options.net}-" + "-".join(map(str, options.sizes))
    bundle = Bundle(model_spec(net, name), w_of(net), {"net": options.net})
    bundle.save(options.bundle)
    print(f"{options.bundle}: {options.bundle.stat().st_size:,} bytes")

    # Only so that fetch.py can show that the very same weights come back.
    with torch.no_grad():
        trained = {"weights": weights(net, options.net), "logits": logits(net), "accuracy": accuracy(net)}
    torch.save(trained, options.bundle.with_suffix(".trained.pt"))

    with Client(options.url) as client:
        client.create_model(bundle.spec)
    print(f"registered {name} at {options.url}")


if __name__ == "__main__":
    main()
