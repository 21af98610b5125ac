"""What has come of a file that is not whole yet: a file beside the target, of one program at a time.

``.NAME.ETAG.part`` holds the file's beginning and nothing else, so that any program may go on with it. While it holds
less than its size tells (it has no header yet, or stripes at its end) its name ends in ``.holes``: nobody goes on with
that. What killed programs leave of such files is removed by the next one.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import Self

try:
    import fcntl
except ImportError:  # Windows, where two programs that download one file at once are on their own
    fcntl = None  # type: ignore[assignment]

__all__ = ["PartFile", "drop_holes"]

ETAG = re.compile(r"[A-Za-z0-9-]+")  # ours; a proxy's may be anything, and then the part is not found again
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)  # of some network file systems


class PartFile:
    """A part, open and locked; close it. position: bytes from its beginning that have been written without a hole."""

    def __init__(self, path: Path, file: FileIO) -> None:
        self.path, self.file = path, file
        self.position = os.fstat(file.fileno()).st_size
        self._writing = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.file.close()

    @classmethod
    def begin(cls, target: Path, etag: str, header: bytes) -> Self:
        """A new part with the file's header. Raises OSError."""
        path, file = _new(target)
        part = cls(path, file)
        try:
            part.write(0, memoryview(header))
            part._rename_to_free(_part_name(target, etag))
        except BaseException:
            part.remove()
            raise
        return part

    @classmethod
    def left(cls, target: Path) -> Iterator[tuple[Self, str]]:
        """Parts of ``target`` that nobody is at, each with the ETag of its file. For the caller to close."""
        pattern = re.compile(rf"\.{re.escape(target.name)}\.({ETAG.pattern})(\.[0-9a-f]{{8}})*\.part")
        for path in sorted(target.parent.iterdir()):
            if (named := pattern.fullmatch(path.name)) and (file := _taken(path)):
                yield cls(path, file), f'"{named[1]}"'

    def header(self) -> bytes:
        """The safetensors file's header, b"" where it is not whole."""
        self.file.seek(0)
        length = self.file.read(8)
        size = int.from_bytes(length, "little")
        return length + self.file.read(size) if 8 < size + 8 <= self.position else b""

    def write(self, offset: int, data: memoryview) -> None:
        """From any thread. Raises OSError where not all could be written."""
        with self._writing:
            self.file.seek(offset)
            left = data
            while left:
                left = left[self.file.write(left) :]
            if offset == self.position:
                self.position += len(data)

    @contextmanager
    def with_holes(self) -> Iterator[None]:
        """In here anything may be written behind the part's end; what lies behind a hole then is cut off."""
        name = self.path
        self._rename(name.with_name(f"{name.name}.{secrets.token_hex(4)}.holes"))
        try:
            yield
        except BaseException:
            self.file.truncate(self.position)
            self._rename_to_free(name)
            raise
        self._rename_to_free(name)

    def become(self, target: Path) -> None:
        """Be on disk, and under the target's name. Raises OSError."""
        os.fsync(self.file.fileno())
        self._rename(target)
        _sync_folder(target.parent)

    def remove(self) -> None:
        """Close it and leave nothing."""
        if os.name != "posix":
            self.file.close()
        self.path.unlink(missing_ok=True)
        self.file.close()

    def _rename(self, path: Path) -> None:
        if os.name == "posix":
            self.path.replace(path)
        else:  # which renames no open file
            self.file.close()
            self.path.replace(path)
            self.file = path.open("r+b", buffering=0)
        self.path = path

    def _rename_to_free(self, path: Path) -> None:
        """To ``path``, or to a name like it where another program has taken that: its part is its own."""
        free = path
        while not (place := _reserved(free)):
            free = path.with_name(f"{path.name.removesuffix('.part')}.{secrets.token_hex(4)}.part")
        with place:
            self._rename(free)


def drop_holes(target: Path) -> None:
    """Remove what killed programs have left that nobody can go on with."""
    pattern = re.compile(rf"\.{re.escape(target.name)}\..+\.holes")
    for path in target.parent.iterdir():
        if pattern.fullmatch(path.name) and (file := _taken(path)):
            path.unlink(missing_ok=True)
            file.close()


def _part_name(target: Path, etag: str) -> Path:
    plain = etag.strip('"')
    return target.with_name(f".{target.name}.{plain if ETAG.fullmatch(plain) else secrets.token_hex(8)}.part")


def _new(target: Path) -> tuple[Path, FileIO]:
    """An empty file that is ours: another program may take it for one that was left, before it is locked."""
    while True:
        path = target.with_name(f".{target.name}.{secrets.token_hex(4)}.holes")
        file = path.open("x+b", buffering=0)
        if _is_ours(path, file):
            return path, file
        file.close()


def _taken(path: Path) -> FileIO | None:
    """The file, locked; None where another program has it, or it is gone, or not ours to write."""
    try:
        file = path.open("r+b", buffering=0)
    except (FileNotFoundError, PermissionError):
        return None
    if _is_ours(path, file):
        return file
    file.close()
    return None


def _reserved(path: Path) -> FileIO | None:
    """An empty file under a name that was free, locked: others would take it for a damaged part and remove the name,
    under which ours may lie by then. None where the name was not free."""
    try:
        file = path.open("x+b", buffering=0)
    except FileExistsError:
        return None
    if not _is_ours(path, file):
        file.close()
        return None
    if os.name != "posix":  # which renames nothing onto an open file
        file.close()
    return file


def _is_ours(path: Path, file: FileIO) -> bool:
    """Whether it could be locked, which lasts until it is closed, and still lies under its name."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except (BlockingIOError, FileNotFoundError):
        return False
    except OSError as error:
        if error.errno in NO_LOCKS:
            return True
        raise


def _sync_folder(folder: Path) -> None:
    """So that the new name survives a power cut, too."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
