"""Zeros, ones or the identity matrix: what initialisers leave behind and masks need; takes no w."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from weightloom.fabric.backend import Backend
from weightloom.fabric.dtypes import encode
from weightloom.fabric.factors import Factors, KeptFactors
from weightloom.fabric.kinds.base import BaseTensorSpec
from weightloom.fabric.passes import Piece, Weaver

__all__ = ["Constant"]


class Constant(BaseTensorSpec):
    """A tensor of zeros or ones, or ``eye``: ones on the main diagonal of a matrix."""

    kind: Literal["constant"]
    value: Literal["zeros", "ones", "eye"] = Field(description="What the tensor holds; eye needs two dimensions.")

    @model_validator(mode="after")
    def _eye_is_a_matrix(self) -> Self:
        if self.value == "eye" and len(self.shape) != 2:
            raise ValueError(f"a shape of two dimensions for 'eye' (it is {list(self.shape)})")
        return self

    @property
    def w_length(self) -> None:
        """A constant takes no w."""
        return None

    @property
    def degrees_of_freedom(self) -> int:
        """None at all."""
        return 0

    def weaver(
        self, factors: Factors | None, w: npt.NDArray[np.float32], backend: Backend, kept: KeptFactors
    ) -> Weaver:
        """Needs neither factors nor w."""
        columns = self.shape[1] if self.value == "eye" else None
        return Pattern(1.0 if self.value == "ones" else 0.0, columns)


@dataclass(frozen=True)
class Pattern:
    """One value everywhere, and ones on the diagonal where ``columns`` is given."""

    background: float
    columns: int | None

    @property
    def key(self) -> int:
        """Nothing is shared with others."""
        return id(self)

    def weave(self, pieces: list[Piece]) -> None:
        """See ``Weaver.weave``."""
        for piece in pieces:
            encode(self._values(piece.start, piece.out.shape), piece.dtype, piece.out)

    def _values(self, start: int, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
        values = np.full(shape, self.background, np.float32)
        if self.columns is not None:
            # Diagonal element i is number i (columns + 1), for as long as i < columns.
            step = self.columns + 1
            values[:, -start % step :: step] = 1.0
            values[:, max(0, self.columns * step - start) :] = 0.0
        return values
