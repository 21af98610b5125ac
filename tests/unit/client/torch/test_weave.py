"""``weave`` gives the server's bits, and its gradient is the formula's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from weightloom.errors import InvalidInput, InvalidW
from weightloom.fabric.backend import load_backend
from weightloom.fabric.dtypes import DType
from weightloom.fabric.kinds import RandomMatrixHypernet
from weightloom.fabric.spec import ModelSpec
from weightloom.fabric.streams import normals
from weightloom.fabric.virtual_file import VirtualFile
from weightloom_client.torch import functional, weave
from weightloom_client.torch.kept import FactorCache

SEED = 2**64 - 3


def spec_of(*shape: int, l: int = 16, r: int = 3, hidden_dim: int = 24, scale: float = 0.25) -> RandomMatrixHypernet:
    return RandomMatrixHypernet(name="a.weight", shape=shape, l=l, r=r, hidden_dim=hidden_dim, scale=scale)


def some_w(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()


def served(spec: RandomMatrixHypernet, w: torch.Tensor, dtype: DType = DType.F32) -> bytes:
    model = ModelSpec.from_value({"name": "m", "seed": str(SEED), "tensors": (spec,)})
    file = VirtualFile(model, {spec.name: w.detach().float().numpy()}, dtype=dtype)
    return file.read(len(file.header), file.size - len(file.header))


@pytest.fixture(params=["nothing kept", "kept"])
def kept(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> FactorCache:
    cache = FactorCache(0 if request.param == "nothing kept" else 64 << 20)
    monkeypatch.setattr(functional, "KEPT", cache)
    return cache


SPECS = [
    spec_of(5),
    spec_of(1, 1, l=1, r=1, hidden_dim=1),
    spec_of(7, 11, r=1),
    spec_of(33, 5, 3, 3, l=64, r=64, hidden_dim=128),
    spec_of(300, 70, r=7),
    spec_of(),
]


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: f"{spec.shape}-r{spec.r}")
@pytest.mark.parametrize("batch", [(), (1,), (4,)])
def test_a_woven_tensor_is_the_served_one_bit_for_bit(
    spec: RandomMatrixHypernet, batch: tuple[int, ...], kept: FactorCache
) -> None:
    w = some_w(*batch, spec.l)
    for _ in range(2):  # the second time T may be read from where it was kept
        W = weave(w, spec, SEED)
        assert W.shape == (*batch, *spec.shape)
        assert W.dtype == torch.float32
        assert W.detach().numpy().tobytes() == served(spec, w)


@pytest.mark.parametrize(("dtype", "name"), [(torch.float16, DType.F16), (torch.bfloat16, DType.BF16)])
def test_a_w_of_16_bits_gives_the_tensor_served_in_that_dtype(dtype: torch.dtype, name: DType) -> None:
    spec = spec_of(9, 13)
    w = some_w(spec.l, dtype=dtype)
    W = weave(w, spec, SEED)
    assert W.detach().view(torch.int16).numpy().tobytes() == served(spec, w, name)
    torch.autograd.backward(W.float().sum())
    assert w.grad is not None
    assert w.grad.dtype == dtype


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_both_backends_weave_the_same_bits(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(functional, "KEPT", FactorCache(backend=load_backend(backend)))
    spec = spec_of(30, 7)
    w = some_w(spec.l)
    assert weave(w, spec, SEED).detach().numpy().tobytes() == served(spec, w)


@pytest.mark.parametrize("shape", [(6, 4), (2, 3, 2)])
@pytest.mark.parametrize("batch", [(), (3,)])
def test_the_gradient_is_that_of_the_formula(shape: tuple[int, ...], batch: tuple[int, ...], kept: FactorCache) -> None:
    spec = spec_of(*shape, l=5, r=3, hidden_dim=7)
    w = some_w(*batch, 5, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda w: weave(w, spec, SEED), (w,))


def test_float64_is_the_same_formula_without_the_roundings(kept: FactorCache) -> None:
    spec = spec_of(500, 9, l=20, r=130)
    W, exact = (weave(some_w(20).to(dtype), spec, SEED).detach().double() for dtype in (torch.float32, torch.float64))
    assert torch.linalg.norm(W - exact) < 1e-6 * torch.linalg.norm(exact)
    assert not torch.equal(W, exact)


def by_torch(spec: RandomMatrixHypernet, w: torch.Tensor) -> torch.Tensor:
    """The formula in torch's own operations, over factors that are whole in memory."""
    factors = spec.factors(SEED)
    rows = {factors.p: spec.l, factors.q: spec.hidden_dim, factors.s: spec.hidden_dim, factors.t: spec.numel}
    P, Q, S, T = (
        torch.from_numpy(normals(stream, 0, n * spec.r)).reshape(n, spec.r).double() for stream, n in rows.items()
    )
    return (torch.sigmoid(w @ P @ Q.T) @ S * spec.scale @ T.T).reshape(*w.shape[:-1], *spec.shape)


@pytest.mark.parametrize("spec", [spec_of(700, 11, r=130), spec_of(300, 70, r=7), spec_of(1), spec_of(4099, r=1)])
def test_w_and_gradient_are_those_of_torchs_own_operations(spec: RandomMatrixHypernet, kept: FactorCache) -> None:
    w, grad = some_w(2, spec.l), torch.randn(2, *spec.shape)
    double = w.detach().double().requires_grad_()
    expected = by_torch(spec, double)
    torch.autograd.backward(expected, grad.double())
    W = weave(w, spec, SEED)
    torch.autograd.backward(W, grad)
    torch.testing.assert_close(W.double(), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(weave(double, spec, SEED), expected, rtol=1e-11, atol=1e-11)
    assert w.grad is not None
    assert double.grad is not None
    torch.testing.assert_close(w.grad.double(), double.grad, rtol=1e-6, atol=1e-9)


def test_a_gradient_that_is_expanded_from_one_number_is_taken() -> None:
    spec = spec_of(4, 6)
    w = some_w(spec.l)
    (by_sum,) = torch.autograd.grad(weave(w, spec, SEED).sum(), w)
    (by_ones,) = torch.autograd.grad(weave(w, spec, SEED), w, torch.ones(4, 6))
    assert torch.equal(by_sum, by_ones)


@pytest.mark.parametrize("w", [torch.zeros(15), torch.zeros(0, 16), torch.zeros(1, 1, 16), torch.zeros(16).int()])
def test_a_w_of_another_shape_or_dtype_is_refused(w: torch.Tensor) -> None:
    with pytest.raises(InvalidInput, match="w"):
        weave(w, spec_of(3, 4), SEED)


def test_a_w_that_is_not_finite_is_refused_as_the_server_does() -> None:
    with pytest.raises(InvalidW):
        weave(torch.full((16,), np.nan), spec_of(3, 4), SEED)


def test_a_seed_of_more_than_64_bits_is_refused() -> None:
    with pytest.raises(InvalidInput, match="seed"):
        weave(some_w(16), spec_of(3, 4), 2**64)
