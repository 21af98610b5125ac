"""``weave``: w to W as a differentiable operation of PyTorch, with the bits that the server serves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from weightloom.errors import InvalidInput
from weightloom.fabric import passes
from weightloom.fabric.dtypes import DType
from weightloom.fabric.kinds import RandomMatrixHypernet
from weightloom.fabric.passes import Piece
from weightloom.fabric.vectors import as_float32

from weightloom_client.torch.arithmetic import weave_float64, weave_gradient
from weightloom_client.torch.checks import checked_seed
from weightloom_client.torch.kept import KEPT

__all__ = ["DTYPES", "weave"]

P = ParamSpec("P")
T = TypeVar("T")

HALVES = (torch.float16, torch.bfloat16)
DTYPES = (torch.float32, torch.float64, *HALVES)


def _eager(function: Callable[P, T]) -> Callable[P, T]:
    """Let torch.compile break its graph at this function: what it calls is not made of torch's operations."""
    eager: Callable[P, T] = torch.compiler.disable(function)  # type: ignore[no-untyped-call]
    return eager


@_eager
def weave(w: torch.Tensor, spec: RandomMatrixHypernet, seed: int) -> torch.Tensor:
    """The tensor that ``spec`` and ``seed`` make of ``w``: (l,) -> spec.shape, or (B, l) -> (B, *spec.shape).

    float32: bit for bit what a server sends for this w. float16 and bfloat16: w is widened, and W is what the server
    sends in that dtype. float64: the same formula without its float32 roundings, for gradcheck and not for use.

    The gradient is exact up to float64's roundings; it cannot be differentiated again. T is never whole in memory
    unless it fits ``set_keep_t_bytes``. The work is done on the CPU, wherever w lies; W comes back on w's device.
    torch.compile breaks its graph here. torch.func's transforms (vmap, grad) cannot pass; for many w's give (B, l).

    Raises InvalidInput for a w of another shape or dtype or a seed that is no integer of 64 bits, InvalidW where a
    number of w is not finite.
    """
    _check(w, spec)
    seed = checked_seed(seed)
    if w.dtype in HALVES:
        return weave(w.float(), spec, seed).to(w.dtype)
    result: torch.Tensor = _Weave.apply(w, spec, seed)  # type: ignore[no-untyped-call]
    return result


def _check(w: torch.Tensor, spec: RandomMatrixHypernet) -> None:
    if w.ndim not in (1, 2) or w.shape[-1] != spec.l or w.numel() == 0:
        raise InvalidInput.at("w", f"shape {list(w.shape)}", f"[{spec.l}] or [B, {spec.l}]")
    if w.dtype not in DTYPES:
        raise InvalidInput.at("w", w.dtype, "a tensor of float32, float64, float16 or bfloat16")


class _Weave(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, w: torch.Tensor, spec: RandomMatrixHypernet, seed: int) -> torch.Tensor:
        ctx.save_for_backward(w)
        ctx.spec, ctx.seed = spec, seed
        rows = w.detach().reshape(-1, spec.l).cpu().numpy()
        out = _float32(rows, spec, seed) if w.dtype == torch.float32 else _float64(rows, spec, seed)
        return torch.from_numpy(out).reshape((*w.shape[:-1], *spec.shape)).to(w.device)

    @staticmethod
    @_eager  # torch.compile of a whole training step would trace into it else
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (w,), spec = ctx.saved_tensors, ctx.spec
        rows = w.detach().reshape(-1, spec.l).cpu().numpy()
        by_element = grad.reshape(len(rows), -1).cpu().numpy()
        by_w = weave_gradient(by_element, rows, spec, spec.factors(ctx.seed), KEPT)
        return torch.from_numpy(by_w).reshape(w.shape).to(w.device, w.dtype), None, None


def _float32(w: npt.NDArray[np.float32], spec: RandomMatrixHypernet, seed: int) -> npt.NDArray[np.float32]:
    """The server's own steps: w (B, l) -> (B, numel)."""
    factors, rows = spec.factors(seed), as_float32({spec.name: w})[spec.name]
    KEPT.expect(factors)
    weaver = spec.weaver(factors, rows, KEPT.backend, KEPT)
    out = np.empty((len(rows), spec.numel), np.float32)
    passes.weave([Piece(weaver, 0, 0, DType.F32, out)])
    return out


def _float64(w: npt.NDArray[np.float64], spec: RandomMatrixHypernet, seed: int) -> npt.NDArray[np.float64]:
    return weave_float64(w, spec, spec.factors(seed), KEPT)
