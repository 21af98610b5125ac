"""The arithmetic of ``random_matrix_hypernet`` over factors that are given: a tinyBIG model served unchanged."""

from __future__ import annotations

from itertools import accumulate
from typing import Annotated, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from weightloom.fabric.backend import Backend, load_backend
from weightloom.fabric.factors import Factors, KeptFactors
from weightloom.fabric.imported import MAX_NUMBER, Blob
from weightloom.fabric.kinds.random_matrix_hypernet import HypernetSpec
from weightloom.fabric.passes import Piece, Weaver
from weightloom.fabric.reference import weave_given

__all__ = ["ImportedHypernet"]

ROUNDINGS = 1.001  # room for the roundings of the sums, at most one in 2^24 for each of r + 1
COPIED_NUMBERS = 1 << 22  # of P, Q and S; more are read from where they lie, by numpy

F32 = npt.NDArray[np.float32]


class ImportedHypernet(HypernetSpec):
    """A hypernet whose P, Q, S and T were uploaded. They are read from where they are kept, and never drawn."""

    largest_number: ClassVar[float] = MAX_NUMBER * ROUNDINGS

    kind: Literal["imported_hypernet"]
    factors_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] = Field(
        description="SHA-256 of P (l, r), Q and S (hidden_dim, r) and T (elements, r): float32, little-endian, "
        "row-major, end to end."
    )

    @property
    def blob(self) -> Blob:
        """P, Q, S and T end to end."""
        return Blob(self.factors_sha256, sum(self._sizes))

    @property
    def _sizes(self) -> tuple[int, int, int, int]:
        """Numbers of P, Q, S and T."""
        return tuple(rows * self.r for rows in (self.l, self.hidden_dim, self.hidden_dim, self.numel))  # type: ignore[return-value]

    def weaver(self, factors: Factors | None, w: F32, backend: Backend, kept: KeptFactors) -> Weaver:
        """Compute h (B, r) once; T is then read at any range."""
        values = kept.imported(self.blob)
        assert values is not None, "a file is not laid out without its blobs"
        *pqs, t = np.split(values, [*accumulate(self._sizes)][:-1])
        return Over(t, self._hidden(w, backend, pqs))

    def _hidden(self, w: F32, backend: Backend, pqs: list[F32]) -> F32:
        """Copies are what numba's kernels are compiled for: arrays that could be written to."""
        p, q, s = pqs
        sizes = Factors(0, self.name, self.l, self.r, self.hidden_dim, self.numel)
        if sum(part.size for part in pqs) > COPIED_NUMBERS:
            return load_backend("numpy").hidden(sizes, w, self.scale, (p, q, s))
        return backend.hidden(sizes, w, self.scale, (p.copy(), q.copy(), s.copy()))


class Over:
    """W = T h over a T (numel r,) that is given. Reading it is what takes time, so numpy does as well as numba."""

    def __init__(self, t: F32, h: F32) -> None:
        self.t, self.h, self.key = t, h, id(self)

    def weave(self, pieces: list[Piece]) -> None:
        """See ``Weaver.weave``."""
        for piece in pieces:
            weave_given(self.t, self.h[piece.first : piece.first + len(piece.out)], [piece])
