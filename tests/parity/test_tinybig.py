"""W is what tinyBIG's own ``random_matrix_hypernet_reconciliation`` makes of the same factors, and W stays.

tinyBIG draws P, Q, S and T from torch's global generator and keeps them out of its state_dict; we draw them from a
seed. With our factors put into its class, its forward must give our W.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pytest
import torch
from weightloom.fabric.backend import load_backend
from weightloom.fabric.kernels_cpu import normals
from weightloom.fabric.spec import ModelSpec
from weightloom.fabric.streams import factor_stream
from weightloom.fabric.virtual_file import VirtualFile

F32 = npt.NDArray[np.float32]

SEED = 0x9E37_79B9_7F4A_7C15
TENSOR = "layers.0.weight"


class Sizes(NamedTuple):
    n: int
    D: int
    l: int
    r: int
    hidden_dim: int


DEFAULT = Sizes(10, 20, l=64, r=2, hidden_dim=128)  # tinyBIG's own defaults
SIZES = [
    DEFAULT,
    Sizes(1, 1, l=1, r=1, hidden_dim=1),
    Sizes(3, 5, l=4, r=1, hidden_dim=7),
    Sizes(17, 33, l=16, r=3, hidden_dim=31),
    Sizes(64, 48, l=64, r=8, hidden_dim=128),
    Sizes(1, 1000, l=128, r=64, hidden_dim=256),
    Sizes(300, 1, l=2, r=5, hidden_dim=64),
    Sizes(128, 256, l=512, r=16, hidden_dim=1024),
    Sizes(2, 3, l=1000, r=2, hidden_dim=5000),
]
every_size = pytest.mark.parametrize("sizes", SIZES, ids=lambda sizes: "-".join(map(str, sizes)))


@contextmanager
def tinybig_modules(root: Path) -> Iterator[dict[str, ModuleType]]:
    """Bare packages in place of tinyBIG's, whose ``__init__`` files import torchvision and more; all gone after."""
    before = {name: sys.modules.pop(name) for name in [*sys.modules] if name.partition(".")[0] == "tinybig"}
    modules = {name: ModuleType(name) for name in ("tinybig", "tinybig.module", "tinybig.reconciliation")}
    for name, module in modules.items():
        module.__path__ = [str(root.joinpath(*name.split(".")[1:]))]
    # Only for functions named by strings, which the hypernet has none of; the real one needs yaml.
    modules |= {name: ModuleType(name) for name in ("tinybig.config", "tinybig.config.base_config")}
    vars(modules["tinybig.config.base_config"])["config"] = None
    sys.modules.update(modules)
    try:
        yield modules
    finally:
        for name in [name for name in sys.modules if name.partition(".")[0] == "tinybig"]:
            del sys.modules[name]
        sys.modules.update(before)


@pytest.fixture(scope="module")
def hypernet_class() -> Any:
    spec = importlib.util.find_spec("tinybig")
    assert spec is not None, "parity needs tinyBIG: pip install --no-deps tinybig==0.2.1"
    assert spec.origin is not None
    with tinybig_modules(Path(spec.origin).parent) as modules:
        base = importlib.import_module("tinybig.module.base_fabrication")
        vars(modules["tinybig.reconciliation"])["fabrication"] = base.fabrication
        module = importlib.import_module("tinybig.reconciliation.random_matrix_reconciliation")
    return module.random_matrix_hypernet_reconciliation


def some_w(sizes: Sizes) -> F32:
    return np.random.default_rng(sizes.l).standard_normal(sizes.l, np.float32)


def factor(name: str, rows: int, r: int) -> torch.Tensor:
    return torch.from_numpy(normals(factor_stream(SEED, TENSOR, name), 0, rows * r).reshape(rows, r))


def unfrozen(hypernet_class: Any, sizes: Sizes) -> Any:
    return hypernet_class(r=sizes.r, l=sizes.l, hidden_dim=sizes.hidden_dim)


def with_our_factors(hypernet_class: Any, sizes: Sizes, dtype: torch.dtype = torch.float32) -> Any:
    hypernet = unfrozen(hypernet_class, sizes)
    rows = {"P": sizes.l, "Q": sizes.hidden_dim, "S": sizes.hidden_dim, "T": sizes.n * sizes.D}
    for name, count in rows.items():
        setattr(hypernet, name, factor(name, count, sizes.r).to(dtype))
    return hypernet


def forward(hypernet: Any, sizes: Sizes, w: F32, dtype: torch.dtype = torch.float32) -> npt.NDArray[Any]:
    """tinyBIG's W (n, D). It wants w as (1, l)."""
    return np.asarray(hypernet(sizes.n, sizes.D, torch.from_numpy(w)[None].to(dtype)).numpy())


def their_h(hypernet: Any, w: F32) -> npt.NDArray[Any]:
    """h of a float64 hypernet: with the identity in place of T, W is h."""
    hypernet.T = torch.eye(hypernet.r, dtype=torch.float64)
    return np.asarray(hypernet(1, hypernet.r, torch.from_numpy(w)[None].double()).numpy())


def our_file(sizes: Sizes, w: F32, backend: str = "auto") -> VirtualFile:
    shapes = {"shape": [sizes.n, sizes.D], "l": sizes.l, "r": sizes.r, "hidden_dim": sizes.hidden_dim}
    tensor = {"name": TENSOR, "kind": "random_matrix_hypernet", **shapes}
    model = ModelSpec.from_value({"name": "parity", "seed": str(SEED), "tensors": [tensor]})
    return VirtualFile(model, {TENSOR: w}, backend=load_backend(backend))


def our_weights(sizes: Sizes, w: F32, backend: str = "auto") -> F32:
    file = our_file(sizes, w, backend)
    data = file.read(len(file.header), file.size - len(file.header))
    return np.frombuffer(data, "<f4").reshape(sizes.n, sizes.D)


def largest_error(ours: F32, theirs: npt.NDArray[Any]) -> float:
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def norm_error(ours: F32, theirs: npt.NDArray[Any]) -> float:
    return float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))


def error_in_float64(hypernet: Any, sizes: Sizes, w: F32) -> tuple[float, float]:
    """Norm of our W less a float64 hypernet's, and the bound that our float32 steps set to it.

    h is rounded once, then come r products and r - 1 sums: at most r + 1 roundings on the way of any T_ik h_k. The
    terms of W_i add up to at most |T_i| |h|, so those of all of W to the norm of T times |h|.
    """
    theirs, t = forward(hypernet, sizes, w, torch.float64), hypernet.T
    size = torch.linalg.norm(t).item() * float(np.linalg.norm(their_h(hypernet, w)))
    return float(np.linalg.norm(our_weights(sizes, w) - theirs)), (sizes.r + 1.01) * 2.0**-24 * size


@every_size
def test_tinybig_makes_our_weights_from_our_factors(hypernet_class: Any, sizes: Sizes) -> None:
    w = some_w(sizes)
    ours, theirs = our_weights(sizes, w), forward(with_our_factors(hypernet_class, sizes), sizes, w)
    assert theirs.dtype == np.float32
    assert largest_error(ours, theirs) < 1e-5
    assert norm_error(ours, theirs) < 1e-5


@every_size
def test_what_is_left_between_us_in_float64_is_our_own_last_roundings(hypernet_class: Any, sizes: Sizes) -> None:
    w = some_w(sizes)
    error, roundings = error_in_float64(with_our_factors(hypernet_class, sizes, torch.float64), sizes, w)
    assert error < roundings


# A w this large magnifies tinyBIG's own float32 errors beyond 1e-5, so its float64 is the judge.
@pytest.mark.parametrize("size_of_w", [1e-30, 1e-3, 30.0, 1e4])
def test_we_agree_where_the_sigmoid_is_linear_and_where_it_is_saturated(hypernet_class: Any, size_of_w: float) -> None:
    w = some_w(DEFAULT) * np.float32(size_of_w)
    error, roundings = error_in_float64(with_our_factors(hypernet_class, DEFAULT, torch.float64), DEFAULT, w)
    assert error < roundings


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_both_backends_agree_with_tinybig(hypernet_class: Any, backend: str) -> None:
    sizes = Sizes(12, 34, l=56, r=7, hidden_dim=89)
    theirs = forward(with_our_factors(hypernet_class, sizes), sizes, some_w(sizes))
    assert largest_error(our_weights(sizes, some_w(sizes), backend), theirs) < 1e-5


def test_a_w_of_zeros_gives_half_of_s_because_the_nonlinearity_is_a_sigmoid(hypernet_class: Any) -> None:
    w = np.zeros(DEFAULT.l, np.float32)
    s = factor("S", DEFAULT.hidden_dim, DEFAULT.r).double().numpy()
    t = factor("T", DEFAULT.n * DEFAULT.D, DEFAULT.r).double().numpy()
    expected = (t @ (s.sum(axis=0) / 2)).reshape(DEFAULT.n, DEFAULT.D)
    assert norm_error(our_weights(DEFAULT, w), expected) < 1e-6
    assert norm_error(forward(with_our_factors(hypernet_class, DEFAULT), DEFAULT, w), expected) < 1e-5


def test_tinybig_draws_factors_of_the_shapes_that_ours_have(hypernet_class: Any) -> None:
    ours, theirs = with_our_factors(hypernet_class, DEFAULT), unfrozen(hypernet_class, DEFAULT)
    forward(theirs, DEFAULT, some_w(DEFAULT))
    for name in "PQST":
        assert getattr(theirs, name).shape == getattr(ours, name).shape


def test_tinybig_keeps_the_factors_we_put_in(hypernet_class: Any) -> None:
    hypernet = with_our_factors(hypernet_class, DEFAULT)
    before = {name: getattr(hypernet, name) for name in "PQST"}
    forward(hypernet, DEFAULT, some_w(DEFAULT))
    assert all(getattr(hypernet, name) is before[name] for name in "PQST")


class TestWhyWeExist:
    """What tinyBIG cannot do, and we do."""

    @pytest.fixture(autouse=True)
    def torch_seed(self) -> Iterator[None]:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            yield

    def test_a_saved_tinybig_hypernet_has_lost_its_factors(self, hypernet_class: Any) -> None:
        hypernet = unfrozen(hypernet_class, DEFAULT)
        forward(hypernet, DEFAULT, some_w(DEFAULT))
        held = sum(getattr(hypernet, name).numel() for name in "PQST")
        assert held == (64 + 128 + 128 + 200) * 2
        assert hypernet.state_dict() == {}

    def test_two_tinybig_hypernets_make_two_weights_of_one_w(self, hypernet_class: Any) -> None:
        w = some_w(DEFAULT)
        one, other = (forward(unfrozen(hypernet_class, DEFAULT), DEFAULT, w) for _ in range(2))
        # Two independent matrices are sqrt(2) of their size apart.
        assert np.linalg.norm(one - other) > 0.1 * math.hypot(np.linalg.norm(one), np.linalg.norm(other))

    def test_tinybig_forgets_a_weight_when_asked_for_another_shape(self, hypernet_class: Any) -> None:
        hypernet, w = unfrozen(hypernet_class, DEFAULT), some_w(DEFAULT)
        first = forward(hypernet, DEFAULT, w)
        forward(hypernet, DEFAULT._replace(n=11), w)
        assert not np.array_equal(forward(hypernet, DEFAULT, w), first)

    def test_ours_are_the_same_bits_whoever_makes_them_and_in_whatever_pieces(self) -> None:
        w = some_w(DEFAULT)
        whole = our_weights(DEFAULT, w, "numba").tobytes()
        assert our_weights(DEFAULT, w, "numpy").tobytes() == whole
        file = our_file(DEFAULT, w)
        pieces = [file.read(start, min(37, file.size - start)) for start in range(0, file.size, 37)]
        assert b"".join(pieces)[len(file.header) :] == whole

    def test_ours_stay_when_another_shape_is_made_in_between(self) -> None:
        w = some_w(DEFAULT)
        first = our_weights(DEFAULT, w)
        taller = our_weights(DEFAULT._replace(n=11), w)
        assert np.array_equal(our_weights(DEFAULT, w), first)
        assert np.array_equal(taller[: DEFAULT.n], first)
