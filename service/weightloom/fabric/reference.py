"""w -> h -> W in plain numpy: the reference that ``kernels_cpu`` must equal bit for bit, and the base install's engine.

With P (l, r), Q (hidden_dim, r), S (hidden_dim, r), T (numel, r) drawn from the factor streams:

    W = ((sigmoid((w P) Q^T) S) T^T)        tinyBIG's random_matrix_hypernet_reconciliation

Every sum runs in the order that the numeric contract fixes (docs/factor-streams.md, sections 4 and 5), so no matrix
product is used: a GEMM may sum in any order. Factors are drawn in chunks, so memory stays small at any size. A resident
T is not read: it would save little of the time that numpy takes here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from weightloom.fabric.dtypes import encode
from weightloom.fabric.factors import Factors, ResidentT
from weightloom.fabric.passes import Piece
from weightloom.fabric.streams import FactorStream, normals

__all__ = ["NAME", "READS_T", "hidden", "normals", "weave", "weave_given"]

NAME, READS_T = "numpy", False
CHUNK_NORMALS = 1 << 16

LOG2E, LN2_HIGH, LN2_LOW = 1.44269504088896338700, 6.93147180369123816490e-01, 1.90821492927058770002e-10
INVERSE_FACTORIALS = [1.0 / math.factorial(n) for n in range(13, -1, -1)]
EXP_LIMIT = 708.0

F64 = npt.NDArray[np.float64]
F32 = npt.NDArray[np.float32]


def hidden(factors: Factors, w: F32, scale: float, pqs: tuple[F32, F32, F32] | None = None) -> F32:
    """h = scale * sigmoid((w P) Q^T) S, in float64, rounded to float32: w (B, l) -> h (B, r) (section 4)."""
    r = factors.r
    p, q, s = pqs or (None, None, None)
    a = np.zeros((len(w), r))
    for start, p_rows in _rows(factors.p, w.shape[1], r, kept=p):  # (n, r)
        for i, row in enumerate(p_rows.astype(np.float64)):
            a += w[:, start + i, None].astype(np.float64) * row  # (B, 1) x (r,) -> (B, r)
    h = np.zeros_like(a)
    q_and_s = (_rows(stream, factors.hidden_dim, r, kept=kept) for stream, kept in ((factors.q, q), (factors.s, s)))
    for (_, q_rows), (_, s_rows) in zip(*q_and_s, strict=True):  # (n, r) each
        sigma = _sigmoid(_project(a, q_rows.astype(np.float64)))  # (B, n)
        for m, row in enumerate(s_rows.astype(np.float64)):
            h += sigma[:, m, None] * row  # (B, r)
    return (h * np.float64(scale)).astype(np.float32)


def weave(factors: Factors, h: F32, pieces: Sequence[Piece], kept: ResidentT | None = None) -> None:
    """Elements of W for each h: h (B, r) -> the pieces' memory, B rows in all (section 5)."""
    _sum(_rows(factors.t, pieces[0].count, h.shape[1], pieces[0].start), h, pieces)


def weave_given(t: F32, h: F32, pieces: Sequence[Piece]) -> None:
    """The same for a T that is given, in row-major order: t (numel r,); only the rows that are wanted are read."""
    _sum(_rows(None, pieces[0].count, h.shape[1], pieces[0].start, kept=t), h, pieces)


def _sum(chunks: Iterable[tuple[int, F32]], h: F32, pieces: Sequence[Piece]) -> None:
    rows = [(row, piece.dtype) for piece in pieces for row in piece.out]
    for first, t in chunks:  # t (n, r)
        for weights, (out, dtype) in zip(h, rows, strict=True):
            v = t[:, 0] * weights[0]
            for k in range(1, len(weights)):
                v += t[:, k] * weights[k]
            encode(v, dtype, out[first : first + len(v)])


def _rows(
    stream: FactorStream | None, rows: int, r: int, start: int = 0, kept: F32 | None = None
) -> Iterator[tuple[int, F32]]:
    """Rows start ... start + rows - 1 of a factor in chunks: (first row relative to start, float32 (n, r)).

    One of ``stream`` and ``kept``, the whole factor in row-major order, must be there.
    """
    step = max(1, CHUNK_NORMALS // r)
    for first in range(0, rows, step):
        n, at = min(step, rows - first), (start + first) * r
        if kept is None:
            assert stream is not None
            yield first, normals(stream, at, n * r).reshape(n, r)
        else:
            yield first, kept[at : at + n * r].reshape(n, r)


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
