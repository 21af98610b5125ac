"""One blob on its way to disk: written beside, hashed and looked at meanwhile, and there whole or not at all."""

from __future__ import annotations

import hashlib
import os
import secrets
from pathlib import Path
from threading import Lock

import numpy as np

from weightloom.errors import InvalidFactors, Unavailable, WeightloomError
from weightloom.fabric.imported import ITEM_BYTES, MAX_NUMBER

__all__ = ["Upload"]


class Upload:
    """``write`` all parts, then ``finish``; ``close`` in any case: what is not finished leaves nothing behind.

    What is wrong with the numbers is raised by ``finish`` alone, so that a client is heard to its end and gets an
    answer. Raises Unavailable where the disk fails, OSError where not even the beginning can be written.
    """

    def __init__(self, folder: Path, digest: str) -> None:
        self._target, self._digest = folder / digest, digest
        self._beside = folder / f".{digest}.{secrets.token_hex(4)}.part"
        self._file = self._beside.open("xb", buffering=0)
        self._hash, self._rest, self._wrong = hashlib.sha256(), b"", False
        self._lock = Lock()

    def write(self, part: bytes | memoryview) -> None:
        """The next bytes."""
        with self._lock:
            self._hash.update(part)
            self._look_at(part)
            try:
                left = memoryview(part).cast("B")
                while left:
                    left = left[self._file.write(left) :]
            except (OSError, ValueError) as error:  # ValueError: it was closed meanwhile
                raise _unavailable(error) from error

    def finish(self) -> bool:
        """Put the blob in its place: False where it was there already. On disk when this returns.

        Raises InvalidFactors where these are not the bytes of the digest, or not all are numbers within ±2^20.
        """
        with self._lock:
            self._check()
            try:
                os.fsync(self._file.fileno())
                self._file.close()
                is_new = not self._target.exists()
                self._beside.replace(self._target)  # over the same bytes: it is as good as new then
                _sync_folder(self._target.parent)
            except (OSError, ValueError) as error:
                raise _unavailable(error) from error
        return is_new

    def close(self) -> None:
        """Remove what was not finished."""
        with self._lock:
            self._file.close()
            self._beside.unlink(missing_ok=True)

    def _look_at(self, part: bytes | memoryview) -> None:
        """The numbers of a part; one that is cut is looked at with the next part."""
        data = self._rest + bytes(part) if self._rest else part
        count = len(data) // ITEM_BYTES
        numbers = np.frombuffer(data, "<f4", count)
        self._rest = bytes(data[count * ITEM_BYTES :])
        with np.errstate(invalid="ignore"):  # a NaN is no number within the limit either
            self._wrong |= not bool(np.all(np.abs(numbers) <= MAX_NUMBER))

    def _check(self) -> None:
        if self._hash.hexdigest() != self._digest:
            got = f"bytes whose SHA-256 is {self._hash.hexdigest()}"
            raise InvalidFactors.at("sha256", got, self._digest, code="factors_mismatch")
        if self._wrong or self._rest:
            expected = "float32 numbers from -2^20 to 2^20, and nothing else"
            raise InvalidFactors.at("factors", "others", expected, code="factors_not_finite")


def _sync_folder(folder: Path) -> None:
    """So that the new name survives a power cut, where the system lets one open folders."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _unavailable(error: Exception) -> WeightloomError:
    return Unavailable(f"imported factors cannot be written: {error}")
