"""Where everything lies in a virtual file. It follows from the specs and from how many w's there are, not from w.

So the layout (with its header, which can be megabytes for a model of very many tensors) is shared by all requests for
the same selection of the same model.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy.typing as npt

from weightloom.errors import InvalidSelection
from weightloom.fabric.cache import BoundedCache
from weightloom.fabric.dtypes import DType
from weightloom.fabric.imported import Blob
from weightloom.fabric.safetensors import build_header
from weightloom.fabric.sections import TILE_PREPARATION, HeaderSection, Section, TensorSection, TileKey, TileSize
from weightloom.fabric.selection import Selected, select
from weightloom.fabric.spec import ModelSpec
from weightloom.fabric.vectors import check_missing, check_shapes

__all__ = ["TILE", "FileLayout", "TileKey", "TileSize", "lay_out"]

TILE = TileSize()
TILE_SECTIONS = 256  # so that a model of very many tiny tensors still makes short tiles
KEPT_BYTES = 512 << 20  # of layouts in all; enough for one of 100,000 tensors
SECTION_BYTES, SPEC_BYTES = 3072, 1536  # what a section takes once it was used, and a tensor of the model

Batches = Mapping[str, int | None]


_layouts: BoundedCache[tuple[object, ...], FileLayout] = BoundedCache(KEPT_BYTES, lambda layout: layout.weight)


def lay_out(
    model: ModelSpec,
    w: Mapping[str, npt.NDArray[Any]],
    dtype: DType,
    tensors: Collection[str] | None,
    rows: Mapping[str, Sequence[int]] | None,
) -> FileLayout:
    """The layout for a selection (see ``select``) and w's of these shapes, (l,) or (B, l).

    Raises InvalidW, InvalidSelection, LimitExceeded.
    """
    check_shapes(model, w)
    chosen = None if tensors is None else frozenset(tensors)
    batches = {
        name: len(values) if values.ndim == 2 else None
        for name, values in w.items()
        if chosen is None or name in chosen
    }
    ranges = tuple(sorted((name, *ends) for name, ends in (rows or {}).items()))
    key = (model.digest, dtype, chosen, ranges, tuple(sorted(batches.items())))
    layout = _layouts.get(key)
    if layout is None:
        layout = FileLayout(model, dtype, select(model, tensors, rows), batches)
        check_missing(w, (part.spec for part in layout.parts))
        _layouts.put(key, layout)
    return layout


class FileLayout:
    """The header and the sections of a file, laid end to end."""

    def __init__(self, model: ModelSpec, dtype: DType, parts: Sequence[Selected], batches: Batches) -> None:
        self.model, self.dtype, self.parts = model, dtype, parts
        shapes = [TensorSection(0, part, batches.get(part.spec.name), dtype, model.seed) for part in parts]
        self.header = build_header(
            {"format": "pt", "model": model.name, "digest": model.digest, "generator": model.generator},
            ((section.part.spec.name, dtype.value, section.shape, section.size) for section in shapes),
        )
        self.sections: list[Section] = [HeaderSection(self.header)]
        for section in shapes:
            self.sections.append(section.at(self.sections[-1].stop))
        self._starts = [section.start for section in self.sections]
        self.size = self.sections[-1].stop
        self.identity = hashlib.sha256(self.header + model.digest.encode())

    @property
    def weight(self) -> int:
        """Bytes of memory that the layout takes, about."""
        return len(self.header) + SECTION_BYTES * len(self.sections) + SPEC_BYTES * len(self.model.tensors)

    @cached_property
    def imported(self) -> Sequence[tuple[int, Blob]]:
        """The blobs that the file needs, each with its tensor's place in the model."""
        names = {part.spec.name for part in self.parts} if self.model.imported else set[str]()
        return [(place, blob) for place, blob in self.model.imported if self.model.tensors[place].name in names]

    @cached_property
    def work(self) -> int:
        """Normal numbers and multiply-adds that the whole file takes."""
        return sum(section.draws + section.preparation for section in self.sections)

    def check_range(self, offset: int, length: int) -> None:
        """Raise InvalidSelection unless the file has ``length`` bytes at ``offset``."""
        if not 0 <= offset <= self.size:
            raise _outside("offset", offset, f"0 to {self.size}, the file's size")
        if not 0 <= length <= self.size - offset:
            raise _outside("length", length, f"0 to {self.size - offset}, the bytes from offset {offset} on")

    def next_cut(self, offset: int, tile: TileSize) -> int:
        """Where the tile that holds byte ``offset`` ends: inside a large tensor, or after several small ones."""
        position, share = offset, 0.0
        while position < self.size:
            section = self.section_at(position)
            whole = (section.stop - section.start) / section.tile_size(tile) + 1 / TILE_SECTIONS
            whole += section.preparation / TILE_PREPARATION
            if whole > 1 and position == offset:
                return section.cut(position, tile)
            share += whole
            if share > 1 and position > offset:
                break
            position = section.stop
        return position

    def tile_key(self, start: int, stop: int) -> TileKey:
        """Tiles of equal keys can be made in one pass: they want the same rows of the same tensor.

        A key is what is wanted of, where it begins, and how much of it.
        """
        section = self.section_at(start)
        return section.tile_key(start, stop) if stop <= section.stop else (id(self), start, stop - start)

    def section_at(self, offset: int) -> Section:
        """The section that holds byte ``offset``."""
        return self.sections[bisect_right(self._starts, offset) - 1]


def _outside(field: str, got: int, expected: str) -> Exception:
    return InvalidSelection.at(field, got, expected, code="offset_out_of_range")
