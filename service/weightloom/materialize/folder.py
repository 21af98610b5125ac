"""Files in a folder: written aside, read back, and renamed to their place."""

from __future__ import annotations

import hashlib
import os
import secrets
from contextlib import suppress
from pathlib import Path

from weightloom.materialize.sink import wrong_bytes
from weightloom.materialize.table import STATE_FOLDER

__all__ = ["Folder"]

PARTS = "parts"  # files on their way, all in one place: what a killed run leaves there is removed by the next one


class Folder:
    """See ``Sink``. root: made where it is missing."""

    threads = 1

    def __init__(self, root: Path) -> None:
        self.root, self.parts = root, root / STATE_FOLDER / PARTS
        self.parts.mkdir(parents=True, exist_ok=True)

    def remove_parts(self) -> None:
        """For the run that has the target to itself."""
        for path in self.parts.iterdir():
            path.unlink(missing_ok=True)

    def begin(self, file: str) -> FolderPart:
        """A new file."""
        return FolderPart(self, file)

    def has(self, file: str, size: int) -> bool:
        """By its size."""
        with suppress(FileNotFoundError, NotADirectoryError):
            return (self.root / file).stat().st_size == size
        return False

    def sha256(self, file: str) -> str | None:
        """Of the whole file."""
        with suppress(FileNotFoundError, NotADirectoryError), (self.root / file).open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()
        return None


class FolderPart:
    """See ``Part``. It is read back through the system's cache: what the disk itself does later is not seen."""

    def __init__(self, folder: Folder, file: str) -> None:
        self._folder, self._file, self._size = folder, file, 0
        self._path = folder.parts / secrets.token_hex(8)
        self._opened = self._path.open("x+b", buffering=0)

    def write(self, data: memoryview) -> None:
        """All of it."""
        self._size += len(data)
        while data:
            data = data[self._opened.write(data) :]

    def finish(self, sha256: str) -> bool:
        """See ``Part.finish``."""
        self._opened.seek(0)
        found = hashlib.file_digest(self._opened, "sha256").hexdigest()
        if found != sha256:
            raise wrong_bytes(self._file, found, sha256)
        if self._folder.has(self._file, self._size) and self._folder.sha256(self._file) == sha256:
            return False
        self._opened.close()
        self._rename(self._folder.root / self._file)
        return True

    def _rename(self, target: Path) -> None:
        try:
            os.replace(self._path, target)  # noqa: PTH105  (what Path.replace calls, some thousand times a second)
        except FileNotFoundError:
            target.parent.mkdir(parents=True, exist_ok=True)
            self._path.replace(target)

    def discard(self) -> None:
        """See ``Part.discard``."""
        self._opened.close()
        self._path.unlink(missing_ok=True)
