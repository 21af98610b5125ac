"""Imported factors on disk: blobs of float32 numbers in one folder, each stored once, under its SHA-256."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Collection, Iterable
from contextlib import closing, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Lock

import numpy as np
import numpy.typing as npt

from weightloom.errors import InvalidFactors, NotFound, Unavailable, shorten
from weightloom.fabric.imported import Blob, factors_missing
from weightloom.fabric.spec import DIGEST_PATTERN, ModelSpec
from weightloom.registry.mappings import Mappings
from weightloom.registry.uploads import Upload

__all__ = ["FACTORS_FOLDER", "RECENT_SECONDS", "UNUSED_SECONDS", "FactorBlobs"]

FACTORS_FOLDER = "factors"  # beside the registry's file
OURS = re.compile(r"[0-9a-f]{64}|\.[0-9a-f]{64}\.[0-9a-f]+\.part")  # whatever else lies in the folder stays there
UNUSED_SECONDS = 86400.0  # so long what no model refers to stays, counted from when it was last uploaded or asked for
RECENT_SECONDS = 600.0  # so long it stays when its last model goes: somebody may be about to create another one

F32 = npt.NDArray[np.float32]


class FactorBlobs:
    """``folder`` is made with its first blob; None stands for a temporary one, gone with ``close``.

    Safe to use from many threads, and by several processes at once. Raises Unavailable where the system fails.
    """

    def __init__(self, folder: Path | None) -> None:
        self._given, self._temporary, self._lock = folder, list[TemporaryDirectory[str]](), Lock()
        self._mappings = Mappings()

    def begin(self, digest: str) -> Upload:
        """Begin to write a blob. Raises InvalidFactors where ``digest`` is no SHA-256."""
        check_digest(digest)
        try:
            (folder := self._folder()).mkdir(parents=True, exist_ok=True)
            return Upload(folder, digest)
        except OSError as error:
            raise Unavailable(f"imported factors cannot be written: {error}") from error

    def put(self, digest: str, parts: Iterable[bytes | memoryview]) -> bool:
        """A whole upload: False where the blob was there already. Raises InvalidFactors, and nothing is kept then."""
        with closing(self.begin(digest)) as upload:
            for part in parts:
                upload.write(part)
            return upload.finish()

    def size(self, digest: str) -> int:
        """Bytes of a blob, which stays from now on as if it were uploaded now: who finds it here skips the upload.

        Raises NotFound, InvalidFactors.
        """
        check_digest(digest)
        with suppress(OSError):  # not ours to touch
            os.utime(self._path(digest))
        if (size := self._size(digest)) is not None:
            return size
        raise NotFound(f"no imported factors here have the SHA-256 {digest}", code="factors_not_found")

    def open(self, blob: Blob) -> F32 | None:
        """The numbers of a blob, mapped and not read; None where it is not here, or of another size."""
        if self._size(blob.digest) != blob.size:
            return None
        try:
            values = self._mappings.get(self._path(blob.digest))
            return values if values.size == blob.count else None
        except FileNotFoundError:  # removed meanwhile
            return None
        except OSError as error:
            raise _unreadable(error) from error

    def check(self, spec: ModelSpec) -> None:
        """Raise InvalidSpec (factors_missing) unless all blobs that ``spec`` needs are here."""
        for place, blob in spec.imported:
            if self._size(blob.digest) != blob.size:
                raise factors_missing(place, blob)

    def remove_unused(self, used: Collection[str], at_once: Collection[str] = ()) -> None:
        """Remove what is not ``used`` (uploads that broke off, too) when it is a day old; ``at_once`` unless recent.

        For callers that keep others from referring to a blob meanwhile.
        """
        now = time.time()
        for path in self._all():
            least = RECENT_SECONDS if path.name in at_once else UNUSED_SECONDS
            with suppress(OSError):  # another process was faster
                if path.name not in used and path.stat().st_mtime < now - least:
                    path.unlink()
        self.let_go()

    def let_go(self) -> None:
        """Forget blobs that were removed, by whomever: their space is free when nobody reads them."""
        self._mappings.keep_only({path.name for path in self._all()})

    def close(self) -> None:
        """Let go of all mappings, and of the temporary folder."""
        self._mappings.clear()
        with self._lock:
            while self._temporary:
                self._temporary.pop().cleanup()

    def _folder(self) -> Path:
        if self._given is not None:
            return self._given
        with self._lock:
            if not self._temporary:
                self._temporary.append(TemporaryDirectory(prefix="weightloom-"))
            return Path(self._temporary[0].name)

    def _path(self, digest: str) -> Path:
        folder = self._given or (Path(self._temporary[0].name) if self._temporary else None)
        if folder is None:
            raise FileNotFoundError
        return folder / digest

    def _all(self) -> list[Path]:
        with suppress(OSError):
            return [path for path in self._path("").iterdir() if OURS.fullmatch(path.name)]
        return []

    def _size(self, digest: str) -> int | None:
        """Bytes of a blob, None where it is not here."""
        try:
            return self._path(digest).stat().st_size
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _unreadable(error) from error


def check_digest(digest: str) -> None:
    """Raise InvalidFactors unless this is a SHA-256 in hexadecimal: it becomes a file's name."""
    if not DIGEST_PATTERN.fullmatch(digest):
        expected = "a SHA-256: 64 hexadecimal digits, lower case"
        raise InvalidFactors.at("sha256", repr(shorten(digest)), expected, code="factors_mismatch")


def _unreadable(error: OSError) -> Unavailable:
    return Unavailable(f"imported factors cannot be read: {error}")
