"""A file system of fsspec whose files are like those of object stores: read in ranges, uploaded when closed."""

from __future__ import annotations

from typing import Any, ClassVar

import fsspec
from fsspec.spec import AbstractBufferedFile, AbstractFileSystem

__all__ = ["BufferedFiles"]


class _File(AbstractBufferedFile):
    def _fetch_range(self, start: int, end: int) -> bytes:
        return self.fs.files[self.path][start:end]

    def _initiate_upload(self) -> None:
        self._sent = b""

    def _upload_chunk(self, final: bool = False) -> bool:
        self._sent += self.buffer.getvalue()
        if final:
            self.fs.files[self.path] = self._sent
        return True


class BufferedFiles(AbstractFileSystem):
    """``buffered://…``, in memory. refusal: what all writes raise, if anything."""

    protocol = "buffered"
    files: ClassVar[dict[str, bytes]] = {}
    refusal: ClassVar[Exception | None] = None

    def _open(self, path: str, mode: str = "rb", block_size: int | None = None, **options: Any) -> _File:
        self._may_write(mode)
        return _File(self, path, mode, block_size=1 << 16)

    def _may_write(self, mode: str) -> None:
        if self.refusal is not None and mode != "rb":
            raise self.refusal

    def info(self, path: str, **options: Any) -> dict[str, Any]:
        """See fsspec."""
        if path not in self.files:
            raise FileNotFoundError(path)
        return {"name": path, "size": len(self.files[path]), "type": "file"}

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        """There are no folders."""


fsspec.register_implementation("buffered", BufferedFiles, clobber=True)
