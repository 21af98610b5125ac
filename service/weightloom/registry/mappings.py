"""Files of float32 numbers, mapped into memory without a descriptor left open: a model may need thousands of them."""

from __future__ import annotations

import ctypes
import mmap
import os
import weakref
from collections import OrderedDict
from collections.abc import Collection
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Mappings"]

RECENT_FILES = 64  # stay mapped though nobody reads them
FAILED = ctypes.c_void_p(-1).value  # MAP_FAILED

F32 = npt.NDArray[np.float32]


class Mappings:
    """Mapped files: one mapping of each for all who read it, and the last few kept. Safe to use from many threads."""

    def __init__(self) -> None:
        self._recent: OrderedDict[tuple[str, int], F32] = OrderedDict()
        self._in_use: weakref.WeakValueDictionary[tuple[str, int], F32] = weakref.WeakValueDictionary()
        self._lock = Lock()

    def get(self, path: Path) -> F32:
        """The numbers of a file, not to be written to; they stay when it is removed. Raises OSError."""
        with self._lock:
            key = path.name, path.stat().st_ino  # another file under the same name is mapped anew
            values = self._in_use.get(key)
            if values is None:
                values = self._in_use[key] = _mapped(path)
            self._recent[key] = values
            self._recent.move_to_end(key)
            if len(self._recent) > RECENT_FILES:
                self._recent.popitem(last=False)
            return values

    def keep_only(self, names: Collection[str]) -> None:
        """Forget files of other names than these: their space is free when nobody reads them."""
        with self._lock:
            for key in [key for key in self._recent if key[0] not in names]:
                del self._recent[key]

    def clear(self) -> None:
        """Forget all."""
        with self._lock:
            self._recent.clear()


class _Mapping:
    """What holds a mapping for numpy: it is undone when the last array over it is gone."""

    def __init__(self, address: int, size: int) -> None:
        self.__array_interface__ = {"shape": (size // 4,), "typestr": "<f4", "data": (address, True), "version": 3}
        weakref.finalize(self, _libc().munmap, address, size).atexit = False  # threads may read until the very end


def _mapped(path: Path) -> F32:
    """Through the C library, since Python's own mmap keeps a descriptor (up to 3.12, without a way to tell it not to).

    Windows has none that could run out.
    """
    if os.name != "posix":
        return np.asarray(np.memmap(path, "<f4", "r"))
    with path.open("rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        address = _libc().mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, file.fileno(), 0)
    if address == FAILED:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error), str(path))
    return np.asarray(_Mapping(address, size))


@cache
def _libc() -> Any:
    library = ctypes.CDLL(None, use_errno=True)
    library.mmap.restype = ctypes.c_void_p
    library.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    library.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    return library
