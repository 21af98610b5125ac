"""A safetensors file on disk, mapped and not read."""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from weightloom.fabric.dtypes import DType, widen
from weightloom.fabric.safetensors import ITEM_BYTES, Entry, layout

__all__ = ["StoredFile", "decode"]

PLAIN_DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1"} | {
    "U64": "<u8",
    "U32": "<u4",
    "U16": "<u2",
    "U8": "u1",
    "BOOL": "?",
}


class StoredFile:
    """The file at ``path``. Raises MalformedBody where it is no safetensors file, OSError where it cannot be read."""

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            self._bytes = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if size else b"")
        self.entries, self.metadata = layout(self._bytes)
        self.size = size

    def raw(self, begin: int, end: int) -> npt.NDArray[np.uint8]:
        """Bytes ``begin`` ... ``end - 1`` of the file."""
        return np.frombuffer(self._bytes[begin:end], np.uint8)

    def elements(self, entry: Entry, start: int, count: int) -> npt.NDArray[np.float32]:
        """Elements of a tensor as float32 (count,)."""
        size = ITEM_BYTES[entry.dtype]
        begin = entry.begin + start * size
        return decode(self.raw(begin, begin + count * size), entry.dtype)


def decode(raw: npt.NDArray[np.uint8], dtype: str) -> npt.NDArray[np.float32]:
    """Bytes of a tensor as float32, for people to look at. Raises KeyError for a dtype that numpy does not have."""
    if dtype == DType.BF16:
        return widen(raw.view(np.uint16))
    values: npt.NDArray[Any] = raw.view(PLAIN_DTYPES[dtype])
    return values.astype(np.float32)
