"""Passes: what many requests want of the same rows of the same tensor is woven together.

A *piece* is a block of elements and the memory where they belong. Pieces that want the same rows of the same T are made
in one *pass*, in which each number of T is drawn (or read) once for all their w's.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy.typing as npt

from weightloom.fabric.dtypes import DType

__all__ = ["Piece", "Weaver", "weave"]


@dataclass(slots=True, eq=False)
class Piece:
    """Elements start ... start + n - 1 of batch rows first ... first + b - 1, to be written to ``out`` (b, n).

    ``out`` has ``dtype.storage`` and contiguous, aligned rows.
    """

    weaver: Weaver
    first: int
    start: int
    dtype: DType
    out: npt.NDArray[Any]

    @property
    def count(self) -> int:
        """n."""
        return int(self.out.shape[1])

    @property
    def key(self) -> Hashable:
        """Equal keys can be woven in one pass."""
        return self.weaver.key, self.start, self.count


class Weaver(Protocol):
    """A tensor spec and a w made ready: it makes any part of the (B, numel) elements that they define."""

    @property
    def key(self) -> Hashable:
        """Equal for weavers whose pieces can be woven together: those over the same T."""

    def weave(self, pieces: list[Piece]) -> None:
        """Fill pieces of equal keys. Work and memory go with their elements alone, wherever the range lies."""


def weave(pieces: Iterable[Piece]) -> None:
    """Fill all pieces, in as few passes as there are different keys."""
    passes: dict[Hashable, list[Piece]] = {}
    for piece in pieces:
        passes.setdefault(piece.key, []).append(piece)
    for together in passes.values():
        together[0].weaver.weave(together)
