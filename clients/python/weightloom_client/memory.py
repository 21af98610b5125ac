"""The memory that a file's data is received into: one block, or the arrays of the caller."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from weightloom_client.arrays import extra

if TYPE_CHECKING:
    from weightloom.fabric.safetensors import Entry

__all__ = ["Bytes", "Memory", "array_of"]

Bytes = npt.NDArray[np.uint8]
Arrays = Mapping[str, npt.NDArray[Any]]


class Memory:
    """pieces: where each begins in the file, and its bytes; one after another, without gaps."""

    def __init__(self, pieces: Sequence[tuple[int, Bytes]]) -> None:
        self._begins, self._pieces = [begin for begin, _ in pieces], [data for _, data in pieces]

    @classmethod
    def of(cls, entries: Sequence[Entry], arrays: Arrays) -> Memory:
        """The caller's own arrays. Raises ValueError, naming the first that cannot hold its tensor."""
        if odd := sorted(arrays.keys() ^ {entry.name for entry in entries}):
            got = "an array for no tensor of the file" if odd[0] in arrays else "nothing"
            raise ValueError(f"out[{odd[0]!r}]: got {got}, expected one array for each tensor of the file")
        return cls([(entry.begin, _checked(entry, arrays[entry.name])) for entry in entries])

    def put(self, offset: int, read_into: Callable[[memoryview], None], length: int) -> None:
        """Receive the ``length`` bytes at ``offset`` of the file: see ``Stripes.receive``."""
        for view in self._views(offset, length):
            read_into(view.data)

    def bytes_at(self, offset: int, length: int) -> Bytes:
        """What was received there; not copied where it lies in one piece."""
        views = [*self._views(offset, length)]
        return views[0] if len(views) == 1 else np.concatenate(views)

    def _views(self, offset: int, length: int) -> Iterator[Bytes]:
        place, stop = bisect_right(self._begins, offset) - 1, offset + length
        while offset < stop:
            begin, piece = self._begins[place], self._pieces[place]
            view = piece[offset - begin : stop - begin]
            yield view
            offset, place = offset + len(view), place + 1


def array_of(entry: Entry, data: Bytes) -> npt.NDArray[Any]:
    """A tensor's bytes as an array of its dtype and shape, not copied."""
    return data.view(_dtype(entry.dtype)).reshape(entry.shape)


def _checked(entry: Entry, array: npt.NDArray[Any]) -> Bytes:
    dtype = _dtype(entry.dtype)
    flags = getattr(array, "flags", None)
    if flags is None or (array.dtype, array.shape) != (dtype, tuple(entry.shape)):
        got = f"{array.dtype} {list(array.shape)}" if flags is not None else type(array).__name__
        raise ValueError(f"out[{entry.name!r}]: got {got}, expected {dtype} {list(entry.shape)}")
    if not (flags.c_contiguous and flags.writeable):
        raise ValueError(f"out[{entry.name!r}]: got a view with gaps or read-only, expected C-contiguous and writeable")
    return array.reshape(-1).view(np.uint8)


def _dtype(name: str) -> np.dtype[Any]:
    if name == "BF16":
        found: np.dtype[Any] = np.dtype(extra("ml_dtypes", "dtype BF16", "bfloat16").bfloat16)
        return found
    return np.dtype({"F32": "<f4", "F16": "<f2"}[name])
