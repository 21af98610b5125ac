"""Fetches the weights that publish.py has trained into ordinary nets: over REST, over gRPC, and without a server."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from digits import NETS, accuracy, logits
from weightloom_client import Bundle, Client
from weightloom_client.torch import load_into


def check(source: str, arrays: dict[str, Any], kind: str, trained: dict[str, Any]) -> None:
    """Load the weights into a plain net and compare it, bit for bit, with the one that was trained."""
    net = NETS[kind]()
    load_into(net, arrays)
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, trained["weights"][name]), name
    assert torch.equal(logits(net), trained["logits"])
    assert accuracy(net) == trained["accuracy"]
    print(f"{source}: {accuracy(net):.1%}, every weight and every logit as trained, to the bit")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default="http://localhost:8000")
    parser.add_argument("--grpc", default="grpc://localhost:50051")
    parser.add_argument("--bundle", type=Path, default=Path("digits.bundle"))
    options = parser.parse_args()

    torch.set_num_threads(1)  # as in training, so that sums are added in the same order
    bundle = Bundle.load(options.bundle)
    kind = bundle.metadata["net"]
    trained = torch.load(options.bundle.with_suffix(".trained.pt"), weights_only=True)
    for url in (options.url, options.grpc):
        with Client(url) as client:  # the server knows the model by its name: only w travels
            check(url, client.fabricate(bundle.spec.name, bundle.w), kind, trained)
    with Client.local() as client:  # no server: the bundle is all that there is
        check("here", client.fabricate(bundle), kind, trained)


if __name__ == "__main__":
    main()
