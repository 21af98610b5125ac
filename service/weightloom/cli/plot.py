"""Pictures of matrices: the matrix itself, the histogram of its elements, its singular values."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from weightloom.errors import Unavailable

__all__ = ["Matrix", "plot_matrices"]

MAX_SIDE = 512  # a larger matrix is drawn from evenly spaced rows and columns
MAX_ROW_READ = 1 << 16  # elements read of one row: wider ones are drawn from their beginning
MAX_TENSORS = 24

F32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Matrix:
    """A tensor to draw: ``read(start, count)`` gives elements in row-major order as float32."""

    name: str
    shape: tuple[int, ...]
    read: Callable[[int, int], F32]

    @property
    def sides(self) -> tuple[int, int]:
        """The tensor as a matrix: the first dimension by all others; a vector is one row."""
        if len(self.shape) < 2:
            return 1, math.prod(self.shape)
        return self.shape[0], math.prod(self.shape[1:])

    def sample(self) -> F32:
        """At most MAX_SIDE x MAX_SIDE elements, evenly spaced."""
        rows, columns = self.sides
        width = min(columns, MAX_ROW_READ)
        at = _spaced(width)
        return np.stack([self.read(int(row) * columns, width)[at] for row in _spaced(rows)])


def plot_matrices(matrices: Sequence[Matrix], path: Path, *, title: str) -> None:
    """Draw one line of three pictures for each of the first MAX_TENSORS matrices into a PNG at ``path``.

    Raises Unavailable where matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        message = "--plot needs matplotlib: pip install 'weightloom[plot]'"
        raise Unavailable(message, code="missing_extra") from error
    drawn = matrices[:MAX_TENSORS]
    figure = Figure(figsize=(12, 3.2 * max(1, len(drawn)) + 0.6), layout="constrained")
    more = f" (the first {len(drawn)} of {len(matrices)} tensors)" if len(matrices) > len(drawn) else ""
    figure.suptitle(title + more)
    grid = figure.subplots(max(1, len(drawn)), 3, squeeze=False)
    for axes, matrix in zip(grid, drawn, strict=False):
        _draw(axes, matrix)
    figure.savefig(path, dpi=110, format="png")


def _draw(axes: Any, matrix: Matrix) -> None:
    values = matrix.sample()
    finite = np.isfinite(values)
    values = np.where(finite, values, np.float32(0))
    unseen = "" if finite.all() else f"; {int((~finite).sum())} not finite, drawn as 0"
    limit = float(np.abs(values).max(initial=0.0)) or 1.0
    sampled = "" if values.shape == matrix.sides else f", {values.shape[0]} × {values.shape[1]} of it drawn"
    axes[0].imshow(values, cmap="RdBu", vmin=-limit, vmax=limit, aspect="auto", interpolation="nearest")
    axes[0].set_title(f"{matrix.name}  {' × '.join(map(str, matrix.shape)) or 'scalar'}{sampled}", fontsize=9)
    axes[1].hist(values.ravel(), bins=80, color="#b4552d")
    axes[1].set_title(f"mean {values.mean():.3g}, standard deviation {values.std():.3g}{unseen}", fontsize=9)
    if min(values.shape) == 1:
        axes[2].set_axis_off()  # a vector has one singular value: its length
        return
    singular = np.linalg.svd(values.astype(np.float64), compute_uv=False)
    rank = int((singular > singular[0] * 1e-6).sum()) if singular[0] > 0 else 0
    axes[2].semilogy(np.arange(1, len(singular) + 1), np.maximum(singular, 1e-12), ".-", color="#2d6cb4")
    axes[2].set_title(f"singular values; {rank} above 1e-6 of the largest", fontsize=9)


def _spaced(size: int) -> npt.NDArray[np.int64]:
    return np.unique(np.linspace(0, size - 1, min(size, MAX_SIDE)).astype(np.int64))
