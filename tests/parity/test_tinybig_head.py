"""Our drop-in inside tinyBIG's own head: trained, saved, loaded again with the same W, which its own class cannot do.

In a process of its own, in which the packages that tinyBIG imports and a head does not use are stand-ins.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PROGRAM = """
import importlib.abc, importlib.machinery, sys, types
from unittest.mock import MagicMock

UNUSED = ("torchvision", "torchtext", "requests", "tqdm", "yaml", "tinybig.data", "tinybig.output")

class StandIns(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name, path, target=None):
        found = any(name == unused or name.startswith(unused + ".") for unused in UNUSED)
        return importlib.machinery.ModuleSpec(name, self, is_package=True) if found else None

    def create_module(self, spec):
        module = types.ModuleType(spec.name)
        module.__getattr__ = lambda name: MagicMock()
        return module

    def exec_module(self, module):
        pass

sys.meta_path.insert(0, StandIns())
import numpy as np
import torch
from tinybig.expansion import identity_expansion
from tinybig.module.base_head import head
from tinybig.remainder import zero_remainder
from weightloom.fabric import ModelSpec, VirtualFile
from weightloom_client.torch import random_matrix_hypernet_reconciliation

def new_head(seed):
    fabrication = random_matrix_hypernet_reconciliation("psi", r=8, l=16, hidden_dim=32, seed=seed)
    parts = {"data_transformation": identity_expansion(), "remainder": zero_remainder()}
    return head(m=6, n=4, l=16, channel_num=2, parameter_fabrication=fabrication, **parts)

torch.manual_seed(0)
trained, x, y = new_head(seed=3), torch.randn(32, 6), torch.randn(32, 4)
optimizer = torch.optim.SGD(trained.parameters(), lr=1e-5)
losses = []
for _ in range(20):
    optimizer.zero_grad()
    loss = torch.nn.functional.mse_loss(trained(x), y)
    loss.backward()
    optimizer.step()
    losses.append(loss.item())
assert losses[-1] < losses[0], losses

torch.save(trained.state_dict(), "head.pt")
loaded = new_head(seed=3)
loaded.load_state_dict(torch.load("head.pt", weights_only=True))
assert torch.equal(loaded(x), trained(x))

tensor = {"name": "psi", "shape": [4, 6], "l": 16, "r": 8, "hidden_dim": 32}
model = ModelSpec.from_value({"name": "m", "seed": 3, "tensors": [tensor]})
file = VirtualFile(model, {"psi": trained.w.detach().numpy()})
served = np.frombuffer(file.read(len(file.header), file.size - len(file.header)), "<f4").reshape(2, 4, 6)
made = [trained.parameter_fabrication(4, 6, w[None]).detach().numpy() for w in trained.w]
assert np.array_equal(np.stack(made), served)
print("all well")
"""


def test_a_tinybig_head_trains_our_drop_in_and_keeps_its_weights(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=200
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("all well\n")
