"""Which arithmetic makes the bits: numba where it is installed, numpy everywhere else. Both give the same ones."""

from __future__ import annotations

import importlib
import importlib.util
from functools import cache
from typing import Any, Protocol, cast

import numpy as np
import numpy.typing as npt

from weightloom.errors import InvalidInput
from weightloom.fabric.dtypes import DType
from weightloom.fabric.streams import FactorStream

__all__ = ["BACKENDS", "Backend", "load_backend"]

BACKENDS = {"numpy": "weightloom.fabric.reference", "numba": "weightloom.fabric.kernels_cpu"}

F32 = npt.NDArray[np.float32]


class Backend(Protocol):
    """The two steps of a fabrication. The modules ``reference`` and ``kernels_cpu`` are the two backends."""

    NAME: str

    def hidden(self, seed: int, tensor: str, w: F32, r: int, hidden_dim: int, scale: float) -> F32:
        """w (B, l) -> h (B, r), both float32."""

    def weave(self, stream: FactorStream, h: F32, start: int, dtype: DType, out: npt.NDArray[Any]) -> None:
        """h (B, r) -> elements start ... start + n - 1 of each W in out (B, n); the factor is drawn once for all B."""


@cache
def load_backend(name: str = "auto") -> Backend:
    """The backend called ``name``: "numpy", "numba", or "auto" for the fastest one installed.

    Raises InvalidInput for another name, ImportError where "numba" is asked for and missing.
    """
    if name == "auto":
        name = "numba" if importlib.util.find_spec("numba") else "numpy"
    if name not in BACKENDS:
        raise InvalidInput.at("backend", name, "one of auto, " + ", ".join(BACKENDS))
    return cast(Backend, importlib.import_module(BACKENDS[name]))
