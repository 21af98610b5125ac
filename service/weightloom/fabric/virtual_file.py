"""A safetensors file that does not exist: known in every byte, stored in none.

Its header and size follow from the specs alone; any range of its bytes is made when it is read, at a cost that goes
with the range and not with the file.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from weightloom.fabric.backend import Backend, load_backend
from weightloom.fabric.dtypes import DType
from weightloom.fabric.factors import NOTHING_KEPT, KeptFactors
from weightloom.fabric.imported import WithImported
from weightloom.fabric.layout import TILE, FileLayout, TileSize, lay_out
from weightloom.fabric.passes import Piece, Weaver, weave
from weightloom.fabric.sections import TensorSection
from weightloom.fabric.spec import ModelSpec
from weightloom.fabric.vectors import as_float32

__all__ = ["VirtualFile"]

KEPT_WEAVERS = 16  # a stream moves through the tensors in order; an h takes 1 MiB at most, but for one very long w

LONG_PREPARATION = 1 << 22  # multiply-adds; some milliseconds

_NO_W = np.empty((1, 0), np.float32)


class VirtualFile:
    """The file of ``model``'s tensors for a ``w``.

    w: for each selected tensor that takes one a float array (l,) or (B, l); the latter gives (B, *shape).
    dtype: F32, F16 or BF16. tensors: a subset, or None for all. rows: [a, b) of the first dimension by name.
    kept: where factors may be found kept; the bits are the same either way.
    Raises InvalidW, InvalidSelection, LimitExceeded, or InvalidSpec where ``kept`` lacks factors that the model
    imports, and never after construction.
    """

    def __init__(
        self,
        model: ModelSpec,
        w: Mapping[str, npt.NDArray[Any]],
        *,
        dtype: DType = DType.F32,
        tensors: Collection[str] | None = None,
        rows: Mapping[str, Sequence[int]] | None = None,
        backend: Backend | None = None,
        kept: KeptFactors = NOTHING_KEPT,
    ) -> None:
        self._bind(lay_out(model, w, dtype, tensors, rows), as_float32(w), backend or load_backend(), kept)

    @classmethod
    def laid_out(
        cls, layout: FileLayout, w: Mapping[str, npt.NDArray[Any]], backend: Backend, kept: KeptFactors
    ) -> VirtualFile:
        """The file of a layout that was made for w's of these very shapes. Raises InvalidW, InvalidSpec."""
        file = cls.__new__(cls)
        file._bind(layout, as_float32(w), backend, kept)
        return file

    def _bind(
        self, layout: FileLayout, w: dict[str, npt.NDArray[np.float32]], backend: Backend, kept: KeptFactors
    ) -> None:
        self.layout, self.model, self.dtype = layout, layout.model, layout.dtype
        self._w, self._backend = w, backend
        self._kept: KeptFactors = WithImported(kept, layout.imported) if layout.imported else kept
        self._weavers: OrderedDict[tuple[str, int], Weaver] = OrderedDict()
        self._expected: set[str] = set()  # tensors of which the store knows that this file needs their factors
        self._lock = threading.Lock()

    @property
    def header(self) -> bytes:
        """The file's first bytes: the header's length and the header."""
        return self.layout.header

    @property
    def size(self) -> int:
        """Bytes of the whole file."""
        return self.layout.size

    @cached_property
    def etag(self) -> str:
        """A strong ETag: equal for equal bytes made from equal w's, on any machine; about 50 characters."""
        digest = self.layout.identity.copy()
        for part in self.layout.parts:
            digest.update(b"%d %d " % (part.first, part.last))
            digest.update(self._w.get(part.spec.name, _NO_W).astype("<f4", copy=False).data)
        return f'"wl1-{digest.hexdigest()[:40]}"'

    def read(self, offset: int, length: int) -> bytes:
        """The ``length`` bytes at ``offset``. Raises InvalidSelection where they reach beyond the file."""
        self.layout.check_range(offset, length)
        out = np.empty(length, np.uint8)
        self.read_into(offset, out)
        return out.tobytes()

    def read_into(self, offset: int, out: npt.NDArray[np.uint8]) -> None:
        """Fill ``out`` with the bytes at ``offset``, which must lie in the file. Safe to call from many threads."""
        weave(self.pieces(offset, out))

    def pieces(self, offset: int, out: npt.NDArray[np.uint8]) -> list[Piece]:
        """What is to be woven to fill ``out`` with the bytes at ``offset``; the rest is written at once."""
        pieces, done = [], 0
        while done < len(out):
            section = self.layout.section_at(offset + done)
            end = min(len(out), section.stop - offset)
            pieces += section.pieces(offset + done, out[done:end], self._weaver)
            done = end
        return pieces

    def next_cut(self, offset: int, tile: TileSize = TILE) -> int:
        """Where the tile that holds byte ``offset`` ends (see ``FileLayout.next_cut``)."""
        return self.layout.next_cut(offset, tile)

    def must_prepare(self, offset: int) -> bool:
        """Whether the tile at ``offset`` has to compute an h first, and that takes long."""
        section = self.layout.section_at(offset)
        if not isinstance(section, TensorSection) or section.block_preparation < LONG_PREPARATION:
            return False
        return (section.part.spec.name, section.block_at(offset)) not in self._weavers

    def _weaver(self, section: TensorSection, block: int) -> Weaver:
        """The weaver of a block of w's of a tensor. The lock keeps two threads from computing one h twice."""
        spec, first = section.part.spec, block * section.block
        key = (spec.name, block)
        with self._lock:
            if key not in self._weavers:
                if section.factors is not None and spec.name not in self._expected:
                    self._expected.add(spec.name)
                    self._kept.expect(section.factors)
                w = self._w.get(spec.name, _NO_W)[first : first + section.block]
                self._weavers[key] = spec.weaver(section.factors, w, self._backend, self._kept)
                if len(self._weavers) > KEPT_WEAVERS:
                    self._weavers.popitem(last=False)
            self._weavers.move_to_end(key)
            return self._weavers[key]
