"""w is the tensor: for biases and norms, which are small and which no hypernet should touch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from weightloom.fabric.backend import Backend
from weightloom.fabric.dtypes import encode
from weightloom.fabric.factors import Factors, KeptFactors
from weightloom.fabric.kinds.base import BaseTensorSpec
from weightloom.fabric.passes import Piece, Weaver

__all__ = ["Identity"]


class Identity(BaseTensorSpec):
    """A tensor whose elements are w itself, in row-major order."""

    kind: Literal["identity"]

    @property
    def w_length(self) -> int:
        """One number per element."""
        return self.numel

    @property
    def degrees_of_freedom(self) -> int:
        """All of them."""
        return self.numel

    def weaver(
        self, factors: Factors | None, w: npt.NDArray[np.float32], backend: Backend, kept: KeptFactors
    ) -> Weaver:
        """w (B, numel) as it is."""
        return Given(w)


@dataclass(frozen=True)
class Given:
    """Elements that are there already: values (B, numel)."""

    values: npt.NDArray[np.float32]

    @property
    def key(self) -> int:
        """Nothing is shared with others."""
        return id(self)

    def weave(self, pieces: list[Piece]) -> None:
        """See ``Weaver.weave``."""
        for piece in pieces:
            rows = self.values[piece.first : piece.first + len(piece.out)]
            encode(rows[:, piece.start : piece.start + piece.count], piece.dtype, piece.out)
