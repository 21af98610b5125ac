"""w -> h -> W in plain numpy: the reference that ``kernels_cpu`` must equal bit for bit, and the base install's engine.

With P (l, r), Q (hidden_dim, r), S (hidden_dim, r), T (numel, r) drawn from the factor streams:

    W = ((sigmoid((w P) Q^T) S) T^T)        tinyBIG's random_matrix_hypernet_reconciliation

Every sum runs in the order that the numeric contract fixes (docs/factor-streams.md, sections 4 and 5), so no matrix
product is used: a GEMM may sum in any order. Factors are drawn in chunks, so memory stays small at any size.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from weightloom.fabric.dtypes import DType, encode
from weightloom.fabric.streams import FactorStream, factor_stream, normals

__all__ = ["NAME", "hidden", "weave"]

NAME = "numpy"
CHUNK_NORMALS = 1 << 16

LOG2E, LN2_HIGH, LN2_LOW = 1.44269504088896338700, 6.93147180369123816490e-01, 1.90821492927058770002e-10
INVERSE_FACTORIALS = [1.0 / math.factorial(n) for n in range(13, -1, -1)]
EXP_LIMIT = 708.0

F64 = npt.NDArray[np.float64]
F32 = npt.NDArray[np.float32]


def hidden(seed: int, tensor: str, w: F32, r: int, hidden_dim: int, scale: float) -> F32:
    """h = scale * sigmoid((w P) Q^T) S, in float64, rounded to float32: w (B, l) -> h (B, r) (section 4)."""
    a = np.zeros((len(w), r))
    for start, p in _rows(factor_stream(seed, tensor, "P"), w.shape[1], r):  # p (n, r)
        for i, row in enumerate(p.astype(np.float64)):
            a += w[:, start + i, None].astype(np.float64) * row  # (B, 1) x (r,) -> (B, r)
    h = np.zeros_like(a)
    s_stream = factor_stream(seed, tensor, "S")
    for start, q in _rows(factor_stream(seed, tensor, "Q"), hidden_dim, r):  # q (n, r)
        s = normals(s_stream, start * r, q.size).reshape(q.shape).astype(np.float64)
        sigma = _sigmoid(_project(a, q.astype(np.float64)))  # (B, n)
        for m, row in enumerate(s):
            h += sigma[:, m, None] * row  # (B, r)
    return (h * np.float64(scale)).astype(np.float32)


def weave(stream: FactorStream, h: F32, start: int, dtype: DType, out: npt.NDArray[Any]) -> None:
    """Elements start ... start + n - 1 of W for each h: h (B, r) -> out (B, n) of ``dtype.storage`` (section 5)."""
    for first, t in _rows(stream, out.shape[1], h.shape[1], start):  # t (n, r)
        for b, weights in enumerate(h):
            v = t[:, 0] * weights[0]
            for k in range(1, len(weights)):
                v += t[:, k] * weights[k]
            encode(v, dtype, out[b, first : first + len(v)])


def _rows(stream: FactorStream, rows: int, r: int, start: int = 0) -> Iterator[tuple[int, F32]]:
    """Rows start ... start + rows - 1 of a factor in chunks: (first row relative to start, float32 (n, r))."""
    step = max(1, CHUNK_NORMALS // r)
    for first in range(0, rows, step):
        n = min(step, rows - first)
        yield first, normals(stream, (start + first) * r, n * r).reshape(n, r)


def _project(a: F64, q: F64) -> F64:
    b = np.zeros((len(a), len(q)))
    for j in range(a.shape[1]):
        b += a[:, j, None] * q[:, j]
    return b


def _sigmoid(b: F64) -> F64:
    x: F64 = np.clip(-b, -EXP_LIMIT, EXP_LIMIT)
    k = np.rint(x * LOG2E)
    q = (x - k * LN2_HIGH) - k * LN2_LOW
    p = np.full_like(q, INVERSE_FACTORIALS[0])
    for coefficient in INVERSE_FACTORIALS[1:]:
        p = p * q + coefficient
    result: F64 = 1.0 / (1.0 + np.ldexp(p, k.astype(np.int32)))
    return result
