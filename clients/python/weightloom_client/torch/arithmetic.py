"""The formula and its derivative in float64, over chunks of T: what autograd needs beside the server's own kernels."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from weightloom.fabric.factors import READ, Factors, ResidentT
from weightloom.fabric.kinds import RandomMatrixHypernet

from weightloom_client.torch.kept import FactorCache

__all__ = ["weave_float64", "weave_gradient"]

CHUNK_NUMBERS = 1 << 18  # of T in float64: 2 MiB
EXP_LIMIT = 708.0

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]


class _Hidden(NamedTuple):
    """P (l, r), Q (hidden_dim, r), S (hidden_dim, r), and sigma (B, hidden_dim) of a w; all float64."""

    p: F64
    q: F64
    s: F64
    sigma: F64


def weave_float64(w: F64, spec: RandomMatrixHypernet, factors: Factors, kept: FactorCache) -> F64:
    """W = scale T (sigmoid((w P) Q^T) S) with no rounding to float32: w (B, l) -> (B, numel) float64."""
    hidden = _hidden(w, factors, kept)
    h = spec.scale * (hidden.sigma @ hidden.s)  # (B, r)
    out = np.empty((len(w), factors.numel))
    for elements, t in _t_parts(factors, kept):
        out[:, elements] = h @ t
    return out


def weave_gradient(
    grad: npt.NDArray[Any], w: npt.NDArray[Any], spec: RandomMatrixHypernet, factors: Factors, kept: FactorCache
) -> F64:
    """The gradient by w of sum(grad * W): grad (B, numel), w (B, l) -> (B, l) float64; T in chunks, never whole."""
    hidden = _hidden(w.astype(np.float64), factors, kept)
    by_h = np.zeros((len(w), factors.r))
    # Infinite gradients are no surprise: GradScaler provokes them, and looks at the result for infinity and NaN.
    with np.errstate(invalid="ignore", over="ignore"):
        for elements, t in _t_parts(factors, kept):
            by_h += grad[:, elements].astype(np.float64) @ t.T
        by_sigma = spec.scale * (by_h @ hidden.s.T)  # (B, hidden_dim)
        by_b = by_sigma * hidden.sigma * (1.0 - hidden.sigma)
        result: F64 = (by_b @ hidden.q) @ hidden.p.T
    return result


def _hidden(w: F64, factors: Factors, kept: FactorCache) -> _Hidden:
    flat = kept.pqs(factors) or kept.draw_pqs(factors)
    p, q, s = (factor.reshape(-1, factors.r).astype(np.float64) for factor in flat)
    sigma = 1.0 / (1.0 + np.exp(np.clip(-((w @ p) @ q.T), -EXP_LIMIT, EXP_LIMIT)))
    return _Hidden(p, q, s, sigma)


def _t_parts(factors: Factors, kept: FactorCache) -> Iterator[tuple[slice, F64]]:
    """T in parts: (which n elements they belong to, T's rows for them as columns: float64 (r, n)).

    They come from memory where T is kept, and from its stream else.
    """
    resident = kept.t(factors)
    if resident is not None and bool((resident.sources == READ).all()):
        yield from _kept_parts(factors, resident)
        return
    step = max(1, CHUNK_NUMBERS // factors.r)
    for first in range(0, factors.numel, step):
        n = min(step, factors.numel - first)
        numbers = kept.backend.normals(factors.t, first * factors.r, n * factors.r)
        yield slice(first, first + n), numbers.reshape(n, factors.r).astype(np.float64).T


def _kept_parts(factors: Factors, resident: ResidentT) -> Iterator[tuple[slice, F64]]:
    """Number k of row 4 g + i of a chunk lies at planes[chunk, i r + k, g], so every fourth row makes a part."""
    for chunk, planes in enumerate(resident.planes):
        stop = min(factors.numel, (chunk + 1) * resident.rows)
        for i, plane in enumerate(planes.reshape(4, factors.r, -1)):
            elements = range(chunk * resident.rows + i, stop, 4)
            yield slice(elements.start, stop, 4), plane[:, : len(elements)].astype(np.float64)
