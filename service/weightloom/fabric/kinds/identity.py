"""w is the tensor: for biases and norms, which are small and which no hypernet should touch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from weightloom.fabric.backend import Backend
from weightloom.fabric.dtypes import DType, encode
from weightloom.fabric.kinds.base import BaseTensorSpec, Weaver

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

    def weaver(self, seed: int, w: npt.NDArray[np.float32], backend: Backend) -> Weaver:
        """w (B, numel) as it is."""
        return Given(w)


@dataclass(frozen=True)
class Given:
    """Elements that are there already: values (B, numel)."""

    values: npt.NDArray[np.float32]

    def fill(self, first: int, start: int, dtype: DType, out: npt.NDArray[Any]) -> None:
        """See ``Weaver.fill``."""
        encode(self.values[first : first + out.shape[0], start : start + out.shape[1]], dtype, out)
