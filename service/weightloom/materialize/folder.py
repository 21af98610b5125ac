"""Files in a folder: written aside, read back, and renamed to their place."""

from __future__ import annotations

import hashlib
import os
import secrets
from contextlib import suppress
from io import FileIO
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
        self._prefix = f"{root}{os.sep}"

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
            return os.stat(self.path(file)).st_size == size  # noqa: PTH116
        return False

    def path(self, file: str) -> str:
        """Where a file lies; as text, since pathlib takes longer than the system for each of thousands."""
        return f"{self._prefix}{file}"

    def sha256(self, file: str) -> str | None:
        """Of the whole file."""
        with suppress(FileNotFoundError, NotADirectoryError), FileIO(self.path(file)) as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()
        return None


class FolderPart:
    """See ``Part``. It is read back through the system's cache: what the disk itself does later is not seen."""

    def __init__(self, folder: Folder, file: str) -> None:
        self._folder, self._file, self._size, self._is_aside = folder, file, 0, True
        self._path = folder.path(f"{STATE_FOLDER}/{PARTS}/{secrets.token_hex(8)}")
        self._opened = FileIO(self._path, "x+")

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
        self._rename(self._folder.path(self._file))
        self._is_aside = False
        return True

    def _rename(self, target: str) -> None:
        try:
            os.replace(self._path, target)  # noqa: PTH105
        except FileNotFoundError:
            Path(target).parent.mkdir(parents=True, exist_ok=True)
            Path(self._path).replace(target)

    def discard(self) -> None:
        """See ``Part.discard``."""
        self._opened.close()
        if self._is_aside:
            self._is_aside = False
            Path(self._path).unlink(missing_ok=True)
