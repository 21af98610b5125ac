"""Factors to be uploaded: bytes, a file or arrays as one blob that can be read again and again, 1 MiB at a time."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from weightloom_client.abort import check_aborted
from weightloom_client.arrays import plain_array

__all__ = ["AnyBlob", "FactorBlob"]

PART_BYTES = 1 << 20

AnyBlob: TypeAlias = "bytes | str | os.PathLike[str] | Sequence[Any] | FactorBlob"


class FactorBlob:
    """P, Q, S and T of a tensor, float32 and row-major, end to end. Nothing is copied that is float32 already.

    source: the bytes themselves, the path of a file of them, or arrays of any library. Raises TypeError for arrays that
    are not float32, or floats that become float32 unchanged.
    """

    def __init__(self, source: bytes | str | os.PathLike[str] | Sequence[Any]) -> None:
        self._path = Path(source) if isinstance(source, str | os.PathLike) else None
        self._views: list[memoryview] = []
        if isinstance(source, bytes):
            self._views = [memoryview(source)]
        elif self._path is None:
            self._views = [_float32(array).data.cast("B") for array in source]  # type: ignore[union-attr]

    @classmethod
    def of(cls, source: AnyBlob) -> FactorBlob:
        """``source`` as it is, or made one."""
        return source if isinstance(source, FactorBlob) else cls(source)

    @cached_property
    def size(self) -> int:
        """Bytes. Raises OSError where the file cannot be read."""
        return self._path.stat().st_size if self._path is not None else sum(len(view) for view in self._views)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the bytes, 64 hexadecimal digits. Raises OSError where the file cannot be read."""
        digest = hashlib.sha256()
        for part in self.parts():
            digest.update(part)
        return digest.hexdigest()

    def parts(self) -> Iterator[bytes]:
        """The bytes from the beginning. Raises OSError where the file cannot be read, AbortedError."""
        for part in self._parts():
            check_aborted()
            yield part

    def _parts(self) -> Iterator[bytes]:
        if self._path is not None:
            with self._path.open("rb") as file:
                while part := file.read(PART_BYTES):
                    yield part
        for view in self._views:
            for start in range(0, len(view), PART_BYTES):
                yield bytes(view[start : start + PART_BYTES])


def _float32(value: Any) -> npt.NDArray[np.float32]:
    array = np.asarray(plain_array(value))
    if not np.can_cast(array.dtype, np.float32):
        raise TypeError(f"factors: got numbers of {array.dtype}, expected float32, which is how they are served")
    return np.ascontiguousarray(array, "<f4").reshape(-1)
