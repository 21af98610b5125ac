"""Which arithmetic makes the bits: numba where it is installed, numpy everywhere else. Both give the same ones."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Protocol, cast

import numpy as np
import numpy.typing as npt

from weightloom.errors import InvalidInput
from weightloom.fabric.factors import Factors, ResidentT
from weightloom.fabric.streams import FactorStream

if TYPE_CHECKING:
    from weightloom.fabric.passes import Piece

__all__ = ["BACKENDS", "Backend", "load_backend"]

BACKENDS = {"numpy": "weightloom.fabric.reference", "numba": "weightloom.fabric.kernels_cpu"}

F32 = npt.NDArray[np.float32]


class Backend(Protocol):
    """The two steps of a fabrication. The modules ``reference`` and ``kernels_cpu`` are the two backends."""

    NAME: str
    READS_T: bool  # whether ``weave`` makes use of a T that is kept

    def hidden(self, factors: Factors, w: F32, scale: float, pqs: tuple[F32, F32, F32] | None) -> F32:
        """w (B, l) -> h (B, r), both float32; P, Q and S are drawn where they are not given."""

    def weave(self, factors: Factors, h: F32, pieces: Sequence[Piece], kept: ResidentT | None) -> None:
        """h (B, r) -> the elements that the pieces want, B rows in all; each number of T is made once for all B.

        The pieces want the same elements; ``kept`` is filled with what it lacks of them.
        """

    def normals(self, stream: FactorStream, start: int, count: int) -> F32:
        """Normal numbers ``start`` ... ``start + count - 1`` of a stream: float32 (count,)."""


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
