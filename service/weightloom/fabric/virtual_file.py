"""A safetensors file that does not exist: known in every byte, stored in none.

Its header and size follow from the specs alone; any range of its bytes is made when it is read, at a cost that goes
with the range and not with the file.
"""

from __future__ import annotations

import hashlib
import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property, partial
from typing import Any

import numpy as np
import numpy.typing as npt

from weightloom.errors import InvalidSelection
from weightloom.fabric.backend import Backend, load_backend
from weightloom.fabric.dtypes import DType
from weightloom.fabric.kinds import Weaver
from weightloom.fabric.safetensors import build_header
from weightloom.fabric.sections import HeaderSection, Section, TensorSection
from weightloom.fabric.selection import Selected, select
from weightloom.fabric.spec import ModelSpec
from weightloom.fabric.streams import GENERATOR
from weightloom.fabric.vectors import check_w

__all__ = ["TILE_BYTES", "VirtualFile"]

TILE_BYTES = 1 << 20
TILE_SECTIONS = 256  # so that a model of very many tiny tensors still makes short tiles
KEPT_WEAVERS = 16  # a stream moves through the tensors in order; an h can take megabytes, so few are kept

_NO_W = np.empty((1, 0), np.float32)


class VirtualFile:
    """The file of ``model``'s tensors for a ``w``.

    w: for each selected tensor that takes one a float array (l,) or (B, l); the latter gives (B, *shape).
    dtype: F32, F16 or BF16. tensors: a subset, or None for all. rows: [a, b) of the first dimension by name.
    Raises InvalidW, InvalidSelection or LimitExceeded, and never after construction.
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
    ) -> None:
        self.model = model
        self.dtype = dtype
        self.parts = select(model, tensors, rows)
        self._w = check_w(model, w, {part.spec.name: part.spec for part in self.parts})
        self._backend = backend or load_backend()
        self._weavers: OrderedDict[str, Weaver] = OrderedDict()
        self._lock = threading.Lock()
        self.header = self._build_header()
        self.sections = self._lay_out()
        self._starts = [section.start for section in self.sections]
        self.size = self.sections[-1].stop

    @cached_property
    def etag(self) -> str:
        """A strong ETag: equal for equal bytes made from equal w's, on any machine; about 50 characters."""
        digest = hashlib.sha256(self.header + self.model.digest.encode())
        for part in self.parts:
            digest.update(b"%d %d " % (part.first, part.last))
            digest.update(np.ascontiguousarray(self._w_of(part), "<f4").data)
        return f'"wl1-{digest.hexdigest()[:40]}"'

    @cached_property
    def draws(self) -> int:
        """Normal numbers that the whole file takes at most: the measure of its work."""
        return sum(
            part.spec.draws_to_prepare + (self._batch_of(part) or 1) * part.count * part.spec.draws_per_element
            for part in self.parts
        )

    def read(self, offset: int, length: int) -> bytes:
        """The ``length`` bytes at ``offset``. Raises InvalidSelection where they reach beyond the file."""
        self.check_range(offset, length)
        out = np.empty(length, np.uint8)
        self.read_into(offset, out)
        return out.tobytes()

    def check_range(self, offset: int, length: int) -> None:
        """Raise InvalidSelection unless the file has ``length`` bytes at ``offset``."""
        if not 0 <= offset <= self.size:
            raise InvalidSelection.at(
                "offset", offset, f"0 to {self.size}, the file's size", code="offset_out_of_range"
            )
        if not 0 <= length <= self.size - offset:
            expected = f"0 to {self.size - offset}, the bytes from offset {offset} on"
            raise InvalidSelection.at("length", length, expected, code="offset_out_of_range")

    def read_into(self, offset: int, out: npt.NDArray[np.uint8]) -> None:
        """Fill ``out`` with the bytes at ``offset``, which must lie in the file. Safe to call from many threads."""
        done = 0
        while done < len(out):
            section = self._section_at(offset + done)
            end = min(len(out), section.stop - offset)
            section.fill(offset + done, out[done:end])
            done = end

    def next_cut(self, offset: int, tile_bytes: int = TILE_BYTES) -> int:
        """Where the tile that holds byte ``offset`` ends: inside a large tensor, or after several small ones."""
        position, share = offset, 0.0
        while position < self.size:
            section = self._section_at(position)
            whole = (section.stop - section.start) / section.tile_size(tile_bytes) + 1 / TILE_SECTIONS
            if whole > 1 and position == offset:
                return section.cut(position, tile_bytes)
            share += whole
            if share > 1 and position > offset:
                break
            position = section.stop
        return position

    def _section_at(self, offset: int) -> Section:
        return self.sections[bisect_right(self._starts, offset) - 1]

    def _build_header(self) -> bytes:
        metadata = {
            "format": "pt",
            "model": self.model.name,
            "digest": self.model.digest,
            "generator": GENERATOR,
        }
        return build_header(metadata, (self._header_entry(part) for part in self.parts))

    def _header_entry(self, part: Selected) -> tuple[str, str, tuple[int, ...], int]:
        batch = self._batch_of(part)
        shape = part.shape if batch is None else (batch, *part.shape)
        return part.spec.name, self.dtype.value, shape, (batch or 1) * part.count * self.dtype.itemsize

    def _lay_out(self) -> list[Section]:
        sections: list[Section] = [HeaderSection(self.header)]
        for part in self.parts:
            weaver = partial(self._weaver, part)
            sections.append(TensorSection(sections[-1].stop, part, self._batch_of(part), self.dtype, weaver))
        return sections

    def _batch_of(self, part: Selected) -> int | None:
        w = self._w.get(part.spec.name)
        return len(w) if w is not None and w.ndim == 2 else None

    def _w_of(self, part: Selected) -> npt.NDArray[np.float32]:
        return np.atleast_2d(self._w.get(part.spec.name, _NO_W))

    def _weaver(self, part: Selected) -> Weaver:
        """This tensor's weaver. The lock keeps two threads from computing one h twice."""
        name = part.spec.name
        with self._lock:
            if name not in self._weavers:
                self._weavers[name] = part.spec.weaver(self.model.seed, self._w_of(part), self._backend)
                if len(self._weavers) > KEPT_WEAVERS:
                    self._weavers.popitem(last=False)
            self._weavers.move_to_end(name)
            return self._weavers[name]
