"""Files at a URL that fsspec knows (s3://, gs://, sftp:// …): uploaded whole, and read back."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from fsspec.core import url_to_fs

from weightloom.errors import Unavailable, WeightloomError
from weightloom.materialize.sink import wrong_bytes

__all__ = ["Remote"]

BUFFER_BYTES = 32 << 20  # what is larger is uploaded as it is made
READ_BYTES = 8 << 20


class Remote:
    """See ``Sink``."""

    threads = 16  # an upload waits for the network, mostly

    def __init__(self, url: str) -> None:
        with _told(url):
            self.system, self.root = url_to_fs(url, use_listings_cache=False)
        self._made = set[str]()

    def begin(self, file: str) -> RemotePart:
        """A new file."""
        return RemotePart(self, file)

    def has(self, file: str, size: int) -> bool:
        """Believed: to ask for each of millions takes hours."""
        return True

    def path(self, file: str) -> str:
        """Where a file lies, as the file system names it."""
        return f"{self.root}/{file}"

    def make_folder(self, file: str) -> None:
        """The folder of a file, where the system has folders."""
        folder = self.path(file).rpartition("/")[0]
        if folder not in self._made:
            self.system.makedirs(folder, exist_ok=True)
            self._made.add(folder)

    def size(self, file: str) -> int | None:
        """Of what is there; None where nothing is."""
        with suppress(FileNotFoundError):
            return int(self.system.info(self.path(file))["size"])
        return None

    def sha256(self, file: str) -> str | None:
        """Read whole, piece by piece."""
        with _told(file):
            size, digest = self.size(file), hashlib.sha256()
            if size is None:
                return None
            for start in range(0, size, READ_BYTES):
                digest.update(self.system.cat_file(self.path(file), start=start, end=min(size, start + READ_BYTES)))
        return digest.hexdigest()


class RemotePart:
    """See ``Part``. Small files are one call; of large ones the system makes an upload in parts.

    Object stores show a file when it is whole. Others may show half of it until a later run has made it again.
    """

    def __init__(self, remote: Remote, file: str) -> None:
        self._remote, self._file = remote, file
        self._held = bytearray()
        self._upload: Any = None

    def write(self, data: memoryview) -> None:
        """Hold it, or send it where it is too much to be held."""
        if self._upload is None and len(self._held) + len(data) <= BUFFER_BYTES:
            self._held += data
            return
        with _told(self._file):
            if self._upload is None:
                self._remote.make_folder(self._file)
                self._upload = self._remote.system.open(self._remote.path(self._file), "wb")
                self._upload.write(self._held)
            self._upload.write(data)

    def finish(self, sha256: str) -> bool:
        """See ``Part.finish``."""
        with _told(self._file):
            return self._finish(sha256)

    def _finish(self, sha256: str) -> bool:
        remote, file = self._remote, self._file
        if self._upload is not None:
            self._upload.close()
        elif remote.size(file) == len(self._held) and remote.sha256(file) == sha256:
            return False
        else:
            remote.make_folder(file)
            remote.system.pipe_file(remote.path(file), bytes(self._held))
        found = remote.sha256(file)
        if found != sha256:
            raise wrong_bytes(file, found, sha256)
        return True

    def discard(self) -> None:
        """An upload that is not closed is given up."""
        self._held.clear()
        if self._upload is not None and not self._upload.closed:
            with suppress(Exception):  # whatever the system says: it is over
                self._upload.discard()
            with suppress(Exception):  # or fsspec completes it, as it is, when nobody holds it any more
                self._upload.closed = True


@contextmanager
def _told(what: str) -> Iterator[None]:
    """What a file system raises, of whatever type (each has its own: of credentials, of SSH …), as the target's."""
    try:
        yield
    except (ImportError, ValueError, OSError, WeightloomError):  # these are told where they arrive
        raise
    except Exception as error:
        raise Unavailable(f"{what}: {type(error).__name__}: {error}", code="target_unavailable") from error
