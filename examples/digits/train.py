"""Nets whose weights are woven from a few numbers, beside the same nets with all their numbers trained."""

from __future__ import annotations

import argparse
import io

import torch
from digits import NETS, accuracy, fabricated, numbers, train
from torch import nn
from weightloom_client import Bundle, Client
from weightloom_client.torch import model_spec, w_of

SIZES = ["16,16,64", "64,64,256", "128,128,512", "256,256,1024", "512,512,2048"]


def sizes(text: str) -> tuple[int, int, int]:
    l, r, hidden_dim = map(int, text.split(","))
    return l, r, hidden_dim


def bundle_of(net: nn.Module) -> Bundle:
    return Bundle(model_spec(net, "examples/digits"), w_of(net))


def file_of_weights(bundle: Bundle) -> int:
    """Bytes of the safetensors file with all the weights, which is as large for a dense net."""
    file = io.BytesIO()
    with Client.local() as client:
        client.fabricate_to(file, bundle)
    return len(file.getvalue())


def row(*cells: object) -> None:
    print("|", " | ".join(f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in cells), "|", flush=True)


def compare(kind: str, chosen: list[tuple[int, int, int]], epochs: int) -> None:
    torch.manual_seed(0)
    dense = NETS[kind]()
    train(dense, epochs)
    stored = file_of_weights(bundle_of(dense))  # a dense net makes a bundle, too: of all its numbers
    row(kind, "dense", numbers(dense), stored, f"{accuracy(dense):.1%}")
    for l, r, hidden_dim in chosen:
        torch.manual_seed(0)  # for the biases; w starts from its own seed
        net = fabricated(kind, l, r, hidden_dim)
        train(net, epochs)
        row(kind, f"{l}, {r}, {hidden_dim}", numbers(net), len(bundle_of(net).to_bytes()), f"{accuracy(net):.1%}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nets", nargs="+", default=[*NETS], choices=[*NETS])
    parser.add_argument("--sizes", nargs="+", type=sizes, default=[*map(sizes, SIZES)], metavar="L,R,HIDDEN_DIM")
    parser.add_argument("--epochs", type=int, default=30)
    options = parser.parse_args()
    row("net", "l, r, hidden_dim", "numbers trained", "bytes stored", "test accuracy")
    row("---", "---", "--:", "--:", "--:")
    for kind in options.nets:
        compare(kind, options.sizes, options.epochs)


if __name__ == "__main__":
    main()
