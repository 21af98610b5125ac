"""W = ((sigmoid((w P) Q^T) S) T^T): the mission. tinyBIG's ``random_matrix_hypernet_reconciliation``."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import AfterValidator, Field, model_validator

from weightloom.fabric.backend import Backend
from weightloom.fabric.factors import Factors, KeptFactors
from weightloom.fabric.kinds.base import BaseTensorSpec
from weightloom.fabric.passes import Piece, Weaver

__all__ = ["HypernetSpec", "RandomMatrixHypernet", "max_scale"]

MAX_R = 4096
MAX_WIDTH = 1 << 20  # of l and of hidden_dim
MAX_FACTOR = 1 << 28  # elements of P, Q or S
MAX_NORMAL = 6.77  # no normal of stream version 1 is larger: sqrt(-2 ln(2^-33)) = 6.764

Width = Annotated[int, Field(ge=1, le=MAX_WIDTH, strict=True)]

# Adding 0.0 turns -0.0 into 0.0: both have one canonical JSON, so they must give one W.
Scale = Annotated[float, Field(allow_inf_nan=False, strict=True), AfterValidator(lambda scale: scale + 0.0)]


def max_scale(r: int, hidden_dim: int, largest: float = MAX_NORMAL) -> float:
    """The largest |scale| at which no w whatever can bring an element of W beyond float32's range.

    largest: of the factors' numbers in magnitude, with some room for roundings. |h_k| <= |scale| hidden_dim largest
    since 0 < sigmoid < 1, so |W_i| <= r largest |h_k|. Keeping that finite at registration means that no infinity or
    NaN, whose bits differ between processors, can ever be made.
    """
    return float(np.finfo(np.float32).max) / (r * hidden_dim * largest**2)


class HypernetSpec(BaseTensorSpec):
    """A tensor woven from factors P (l, r), Q and S (hidden_dim, r), T (numel, r), wherever these come from."""

    largest_number: ClassVar[float] = MAX_NORMAL

    l: Width = Field(64, description="Length of w.")
    r: Annotated[int, Field(ge=1, le=MAX_R, strict=True)] = Field(
        2, description="Rank of the factors: W = T h has only r degrees of freedom, so useful models take r near l."
    )
    hidden_dim: Width = Field(128, description="Width of the hypernet's hidden layer.")
    scale: Scale = Field(1.0, description="Factor on h; at 1 the standard deviation of W is about 10 (defaults).")

    @model_validator(mode="after")
    def _factors_in_limits(self) -> Self:
        for name, width in (("l", self.l), ("hidden_dim", self.hidden_dim)):
            if width * self.r > MAX_FACTOR:
                raise ValueError(f"{name} x r of at most 2^28 (it is {width} x {self.r})")
        limit = max_scale(self.r, self.hidden_dim, self.largest_number)
        if abs(self.scale) > limit:
            raise ValueError(
                f"scale within ±{limit:.6g} for this r and hidden_dim, so that W stays finite (it is {self.scale})"
            )
        return self

    @property
    def w_length(self) -> int:
        """l."""
        return self.l

    @property
    def degrees_of_freedom(self) -> int:
        """At most r, since W = T h with h in R^r; fewer where l, hidden_dim or the tensor is smaller still."""
        return min(self.l, self.r, self.hidden_dim, self.numel)

    @property
    def draws_per_element(self) -> int:
        """One row of T."""
        return self.r

    @property
    def draws_to_prepare(self) -> int:
        """P, Q and S."""
        return (self.l + 2 * self.hidden_dim) * self.r


class RandomMatrixHypernet(HypernetSpec):
    """A hypernet whose factors are drawn, frozen and random, from the model's seed and the tensor's name."""

    kind: Literal["random_matrix_hypernet"] = "random_matrix_hypernet"

    def factors(self, seed: int) -> Factors:
        """P, Q, S and T."""
        return Factors(seed, self.name, self.l, self.r, self.hidden_dim, self.numel)

    def weaver(
        self, factors: Factors | None, w: npt.NDArray[np.float32], backend: Backend, kept: KeptFactors
    ) -> Weaver:
        """Compute h (B, r) once; T is then woven in at any range."""
        assert factors is not None
        return Hypernet(factors, backend.hidden(factors, w, self.scale, kept.pqs(factors)), backend, kept)


class Hypernet:
    """W = T h: each pass takes T from where it is kept, and draws what is not there."""

    def __init__(self, factors: Factors, h: npt.NDArray[np.float32], backend: Backend, kept: KeptFactors) -> None:
        self.factors, self.h, self.backend, self.kept = factors, h, backend, kept
        self.key = factors.key

    def weave(self, pieces: list[Piece]) -> None:
        """See ``Weaver.weave``."""
        rows = [piece.weaver.h[piece.first : piece.first + len(piece.out)] for piece in pieces]  # type: ignore[attr-defined]
        h = rows[0] if len(rows) == 1 else np.concatenate(rows)
        self.backend.weave(self.factors, h, pieces, self.kept.t(self.factors))
