"""Our ``random_matrix_hypernet_reconciliation`` is tinyBIG's, with factors that last."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from weightloom.errors import InvalidInput
from weightloom.fabric.spec import ModelSpec
from weightloom.fabric.virtual_file import VirtualFile
from weightloom_client.torch import random_matrix_hypernet_reconciliation


@pytest.fixture(scope="module")
def theirs() -> Iterator[Any]:
    """tinyBIG's class, loaded past its packages' ``__init__`` files, which import torchvision and more."""
    spec = importlib.util.find_spec("tinybig")
    if spec is None or spec.origin is None:
        pytest.skip("tinyBIG is not installed")
    root, before = Path(spec.origin).parent, {name: sys.modules[name] for name in sys.modules if is_theirs(name)}
    for name in ("tinybig", "tinybig.module", "tinybig.reconciliation", "tinybig.config"):
        sys.modules[name] = ModuleType(name)
        sys.modules[name].__path__ = [str(root.joinpath(*name.split(".")[1:]))]
    sys.modules["tinybig.config.base_config"] = ModuleType("tinybig.config.base_config")
    vars(sys.modules["tinybig.config.base_config"])["config"] = None  # needs yaml, and no hypernet needs it
    base = importlib.import_module("tinybig.module.base_fabrication")
    vars(sys.modules["tinybig.reconciliation"])["fabrication"] = base.fabrication
    module = importlib.import_module("tinybig.reconciliation.random_matrix_reconciliation")
    yield module.random_matrix_hypernet_reconciliation
    for name in [name for name in sys.modules if is_theirs(name)]:
        del sys.modules[name]
    sys.modules.update(before)


def is_theirs(module: str) -> bool:
    return module.partition(".")[0] == "tinybig"


def ours(**arguments: Any) -> random_matrix_hypernet_reconciliation:
    return random_matrix_hypernet_reconciliation(**{"name": "head.0", "seed": 9, **arguments})


def some_w(l: int = 64) -> torch.nn.Parameter:
    return torch.nn.Parameter(torch.randn(1, l, generator=torch.Generator().manual_seed(4)))


@pytest.mark.parametrize("sizes", [(10, 20, 2, 64, 128), (3, 5, 7, 16, 31), (40, 1, 64, 64, 100)])
def test_tinybigs_forward_makes_our_w_and_gradient_of_our_factors(theirs: Any, sizes: tuple[int, ...]) -> None:
    n, D, r, l, hidden_dim = sizes
    own, other, w = ours(r=r, l=l, hidden_dim=hidden_dim), theirs(r=r, l=l, hidden_dim=hidden_dim), some_w(l)
    W = own(n, D, w)
    for name in "PQST":
        setattr(other, name, getattr(own, name))
    expected = other(n, D, w)
    assert (W - expected).abs().max() < 1e-5 * expected.abs().max()
    (by_ours,), (by_theirs,) = (torch.autograd.grad(x.square().mean(), w) for x in (W, expected))
    assert (by_ours - by_theirs).abs().max() < 1e-4 * by_theirs.abs().max()


def test_it_takes_tinybigs_arguments_and_answers_as_tinybigs_does(theirs: Any) -> None:
    own, other = (kind("x", 3, 5, 7, enable_bias=True) for kind in (random_matrix_hypernet_reconciliation, theirs))
    for name in ("name", "r", "l", "hidden_dim", "require_parameters", "enable_bias", "device", "P", "Q", "S", "T"):
        assert getattr(own, name) == getattr(other, name)
    assert own.get_name() == other.get_name()
    assert own.calculate_l(2, 3) == other.calculate_l(2, 3) == own.calculate_l() == 5


def test_w_has_the_servers_bits() -> None:
    tensor = {"name": "head.0", "shape": [10, 20]}  # tinyBIG's own defaults are the server's
    model = ModelSpec.from_value({"name": "m", "seed": 9, "tensors": [tensor]})
    w = some_w()
    file = VirtualFile(model, {"head.0": w.detach().numpy()[0]})
    assert ours()(10, 20, w).detach().numpy().tobytes() == file.read(len(file.header), 800)


def test_factors_have_the_documented_shapes_and_t_goes_with_the_last_forward() -> None:
    own = ours(r=3, l=5, hidden_dim=7)
    own(2, 4, some_w(5))
    first = own.T
    own(n=6, D=4, w=some_w(5))
    shapes = {name: tuple(getattr(own, name).shape) for name in "PQST"}
    assert shapes == {"P": (5, 3), "Q": (7, 3), "S": (7, 3), "T": (24, 3)}
    assert first is not None
    assert own.T is not None
    assert torch.equal(own.T[:8], first)


@pytest.mark.parametrize("w", [torch.zeros(64), torch.zeros(1, 63), torch.zeros(2, 64)])
def test_a_w_of_another_shape_fails_the_same_assertion_as_tinybigs(theirs: Any, w: torch.Tensor) -> None:
    for kind in (ours(), theirs()):
        with pytest.raises(AssertionError):
            kind(2, 3, w)


def test_a_saved_one_makes_its_weights_again(tmp_path: Path) -> None:
    own, other, w = ours(seed=2**64 - 1), ours(name="another"), some_w()
    assert not torch.equal(own(4, 5, w), other(4, 5, w))
    torch.save(own.state_dict(), tmp_path / "saved.pt")
    other.load_state_dict(torch.load(tmp_path / "saved.pt", weights_only=True))
    assert torch.equal(own(4, 5, w), other(4, 5, w))


def test_a_saved_one_of_other_sizes_is_refused() -> None:
    with pytest.raises(InvalidInput, match="hidden_dim"):
        ours(hidden_dim=4).load_state_dict(ours(hidden_dim=5).state_dict())


def test_its_configuration_makes_it_again() -> None:
    own, w = ours(r=3, seed=5), some_w()
    config = own.to_config()
    module, _, name = config["function_class"].rpartition(".")
    again = getattr(importlib.import_module(module), name)(**config["function_parameters"])
    assert torch.equal(again(4, 5, w), own(4, 5, w))


def test_it_can_be_moved_and_cast_like_any_module() -> None:
    own = ours().to("cpu", torch.float64)
    assert own(2, 3, some_w(), device="cpu").dtype == torch.float32
    assert own(2, 3, some_w().double()).dtype == torch.float64
