"""The parts of a virtual file, laid end to end: its header, then one section for each tensor.

A section knows where it lies, what is to be woven for any of its bytes, and where tiles inside it are cut.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from weightloom.fabric.dtypes import DType
from weightloom.fabric.factors import Factors
from weightloom.fabric.passes import Piece, Weaver, weave
from weightloom.fabric.selection import Selected

__all__ = ["HeaderSection", "Section", "TensorSection", "TileKey", "TileSize"]

# An h is made for so many w's at once that this takes some 50 ms and 1 MiB at most (or for one w, where that is more).
BLOCK_PREPARATION, BLOCK_NUMBERS = 1 << 25, 1 << 18
TILE_PREPARATION = 1 << 24  # multiply-adds that are worth a tile, so that preparations do not pile up in one
MIN_TILE_ELEMENTS = 512  # whole groups of four rows, enough of them to fill the vector units


class TileSize(NamedTuple):
    """A tile has at most so many ``bytes``, and fewer where many ``draws`` (normal numbers) go into an element.

    The draws keep a tile from taking a CPU's core for longer than some 2 ms; a GPU has its own (``Device.tile``).
    """

    bytes: int = 1 << 20
    draws: int = 1 << 21


Bytes = npt.NDArray[np.uint8]
TileKey = tuple[Hashable, int, int]
WeaverOf = Callable[["TensorSection", int], Weaver]  # of a section's block of w's by its number


class Section(Protocol):
    """A run of bytes of the file, from ``start`` to ``stop``."""

    @property
    def start(self) -> int:
        """Offset in the file of the first byte."""

    @property
    def stop(self) -> int:
        """Offset after the last byte."""

    def tile_size(self, tile: TileSize) -> int:
        """Bytes of this section that make one tile."""

    def cut(self, offset: int, tile: TileSize) -> int:
        """The next place after ``offset`` (both in the file) where a tile of this section ends."""

    @property
    def draws(self) -> int:
        """Normal numbers that the whole section takes."""

    @property
    def preparation(self) -> int:
        """Multiply-adds for all h's of the section."""

    def pieces(self, offset: int, out: Bytes, weaver_of: WeaverOf) -> list[Piece]:
        """What is to be woven for the ``len(out)`` bytes at ``offset`` (in the file); the rest is written at once."""

    def tile_key(self, start: int, stop: int) -> TileKey:
        """Equal for tiles, of whatever file, that want the same elements of the same T: T, the first, how many."""


@dataclass(frozen=True)
class HeaderSection:
    """Header bytes, which are there already."""

    header: bytes
    start: int = 0
    draws: int = 0
    preparation: int = 0

    @property
    def stop(self) -> int:
        """Length of the header."""
        return len(self.header)

    @cached_property
    def _bytes(self) -> Bytes:
        return np.frombuffer(self.header, np.uint8)

    def tile_size(self, tile: TileSize) -> int:
        """As many bytes as a tile may have."""
        return tile.bytes

    def cut(self, offset: int, tile: TileSize) -> int:
        """Every ``tile.bytes``."""
        return min(self.stop, (offset // tile.bytes + 1) * tile.bytes)

    def pieces(self, offset: int, out: Bytes, weaver_of: WeaverOf) -> list[Piece]:
        """Copy; nothing is woven."""
        out[:] = self._bytes[offset : offset + len(out)]
        return []

    def tile_key(self, start: int, stop: int) -> TileKey:
        """Of no use to others."""
        return id(self), start, stop - start


@dataclass(frozen=True)
class TensorSection:
    """One tensor: a W for each of ``batch`` w's (None: one W, without that dimension)."""

    start: int
    part: Selected
    batch: int | None
    dtype: DType
    seed: int

    def at(self, start: int) -> TensorSection:
        """The same section at another place."""
        return replace(self, start=start)

    @cached_property
    def factors(self) -> Factors | None:
        """The tensor's frozen factors."""
        return self.part.spec.factors(self.seed)

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """Shape in the file."""
        return self.part.shape if self.batch is None else (self.batch, *self.part.shape)

    @cached_property
    def row_bytes(self) -> int:
        """Bytes of one W of the batch."""
        return self.part.count * self.dtype.itemsize

    @cached_property
    def size(self) -> int:
        """Bytes of all W's of the batch."""
        return (1 if self.batch is None else self.batch) * self.row_bytes

    @cached_property
    def stop(self) -> int:
        """Offset after the last byte."""
        return self.start + self.size

    @property
    def draws(self) -> int:
        """P, Q and S once, and T for each W of the batch at most."""
        spec = self.part.spec
        return spec.draws_to_prepare + self.size // self.dtype.itemsize * spec.draws_per_element

    @cached_property
    def preparation(self) -> int:
        """Each number of P, Q and S meets each w of the batch once."""
        return self.part.spec.draws_to_prepare * (1 if self.batch is None else self.batch)

    @cached_property
    def block(self) -> int:
        """How many w's are prepared together: all of them, or fewer where that would take long or much memory."""
        spec = self.part.spec
        by_work = BLOCK_PREPARATION // max(1, spec.draws_to_prepare)
        return max(1, min(by_work, BLOCK_NUMBERS // max(1, spec.draws_per_element)))

    @cached_property
    def block_preparation(self) -> int:
        """Multiply-adds for the h's of one block."""
        return self.part.spec.draws_to_prepare * min(self.block, 1 if self.batch is None else self.batch)

    def block_at(self, offset: int) -> int:
        """Number of the block whose w's the element at ``offset`` (in the file) is made from."""
        return (offset - self.start) // self.row_bytes // self.block

    def tile_size(self, tile: TileSize) -> int:
        """Fewer bytes than a tile may have where many numbers are drawn for each element."""
        asked, size = self._tile_size  # for one tile, again and again
        if asked is not tile:
            draws, item = self.part.spec.draws_per_element, self.dtype.itemsize
            elements = max(MIN_TILE_ELEMENTS, tile.draws // draws) if draws else tile.bytes
            size = min(max(tile.bytes, item), elements * item)
            self.__dict__["_tile_size"] = tile, size
        return size

    @cached_property
    def _tile_size(self) -> tuple[TileSize | None, int]:
        return None, 0

    def cut(self, offset: int, tile: TileSize) -> int:
        """At multiples of the tile size in a W, or of several whole W's where they are small.

        A tile of several whole W's draws the factors once for all of them. Cuts do not depend on where a reader
        starts, so that streams of the same tensor want the same tiles.
        """
        size, row = self._aligned(tile), self.row_bytes
        within = offset - self.start
        if row <= size:
            several = min(size // row, self.block) * row
            end = (within // several + 1) * several
        else:
            first, column = within // row * row, within % row
            end = first + min(row, (column // size + 1) * size)
        return min(self.stop, self.start + end)

    def _aligned(self, tile: TileSize) -> int:
        """The tile size in whole groups of four rows, so that none is drawn twice."""
        size, step = self.tile_size(tile), MIN_TILE_ELEMENTS * self.dtype.itemsize
        return size // step * step or size // self.dtype.itemsize * self.dtype.itemsize

    def pieces(self, offset: int, out: Bytes, weaver_of: WeaverOf) -> list[Piece]:
        """Whole aligned elements are woven in place, others aside, at once."""
        size = self.dtype.itemsize
        first, last = self._elements(offset, offset + len(out))
        if self._is_whole(offset, offset + len(out)):
            elements = out.view(self.dtype.storage)
            if elements.flags.aligned:
                return self._pieces(first, last, elements, weaver_of)
        cover = np.empty(last - first, self.dtype.storage)
        weave(self._pieces(first, last, cover, weaver_of))
        out[:] = cover.view(np.uint8)[offset - self.start - first * size :][: len(out)]
        return []

    def tile_key(self, start: int, stop: int) -> TileKey:
        """By T and the elements of it; files of other selections or dtypes may want the same."""
        if self.factors is None or not self._is_whole(start, stop):
            return id(self), start, stop - start
        first, last = self._elements(start, stop)
        column, count = first % self.part.count, self.part.count
        return self.factors.key, self.part.start + column, min(last - first, count)

    def _is_whole(self, start: int, stop: int) -> bool:
        size = self.dtype.itemsize
        return (start - self.start) % size == 0 and (stop - self.start) % size == 0

    def _elements(self, start: int, stop: int) -> tuple[int, int]:
        """The elements (of all W's of the batch) that cover bytes start ... stop - 1 of the file."""
        size = self.dtype.itemsize
        return (start - self.start) // size, -(-(stop - self.start) // size)

    def _pieces(self, first: int, last: int, out: npt.NDArray[Any], weaver_of: WeaverOf) -> list[Piece]:
        pieces, done = [], 0
        for row, column, rows, count in _blocks(first, last, self.part.count, self.block):
            block = out[done : done + rows * count].reshape(rows, count)
            weaver = weaver_of(self, row // self.block)
            pieces.append(Piece(weaver, row % self.block, self.part.start + column, self.dtype, block))
            done += rows * count
        return pieces


def _blocks(first: int, last: int, count: int, most: int) -> Iterator[tuple[int, int, int, int]]:
    """Elements first ... last - 1 of (B, count) as blocks (row, column, rows, columns).

    Whole rows go together, but none across a multiple of ``most``.
    """
    while first < last:
        row, column = divmod(first, count)
        whole = min((last - first) // count, most - row % most) if column == 0 else 0
        width = count if whole else min(count - column, last - first)
        yield row, column, max(whole, 1), width
        first += max(whole, 1) * width
