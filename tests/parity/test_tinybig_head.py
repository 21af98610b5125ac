"""Our drop-in inside tinyBIG's own head: trained, saved, loaded again with the same W, as its own class cannot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from support.tinybig import a_head, tinybig
from weightloom.fabric import ModelSpec, VirtualFile
from weightloom_client.torch import random_matrix_hypernet_reconciliation

TENSOR = {"name": "psi", "shape": [4, 6], "l": 16, "r": 8, "hidden_dim": 32}


def new_head(classes: Any) -> Any:
    function = random_matrix_hypernet_reconciliation("psi", r=8, l=16, hidden_dim=32, seed=3)
    return a_head(classes, function, channel_num=2)


def trained(head: Any, x: torch.Tensor) -> list[float]:
    """The losses on the way."""
    y, losses = torch.randn(len(x), 4), []
    optimizer = torch.optim.SGD(head.parameters(), lr=1e-5)
    for _ in range(20):
        optimizer.zero_grad()
        loss = torch.nn.functional.mse_loss(head(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def test_a_tinybig_head_trains_our_drop_in_and_keeps_its_weights(tmp_path: Path) -> None:
    torch.manual_seed(0)
    x = torch.randn(32, 6)
    with tinybig() as classes:
        head, loaded = new_head(classes), new_head(classes)
        losses = trained(head, x)
        torch.save(head.state_dict(), tmp_path / "head.pt")
        loaded.load_state_dict(torch.load(tmp_path / "head.pt", weights_only=True))
        assert torch.equal(loaded(x), head(x))
    assert losses[-1] < losses[0]

    file = VirtualFile(
        ModelSpec.from_value({"name": "m", "seed": 3, "tensors": [TENSOR]}), {"psi": head.w.detach().numpy()}
    )
    served = np.frombuffer(file.read(len(file.header), file.size - len(file.header)), "<f4").reshape(2, 4, 6)
    made = [head.parameter_fabrication(4, 6, w[None]).detach().numpy() for w in head.w]
    assert np.array_equal(np.stack(made), served)
