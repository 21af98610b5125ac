"""Where files go: a folder, or a URL that fsspec knows."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from weightloom.errors import InvalidInput, Unavailable

__all__ = ["Part", "Sink", "open_sink", "wrong_bytes"]


class Part(Protocol):
    """A file on its way: nobody sees it under its name before it is whole."""

    def write(self, data: memoryview) -> None:
        """Its next bytes. Raises OSError."""

    def finish(self, sha256: str) -> bool:
        """Read back what was written, compare it, and give it its name; False where the very same file was there.

        Raises Unavailable where other bytes come back, OSError.
        """

    def discard(self) -> None:
        """Leave nothing of it, unless it is finished."""


class Sink(Protocol):
    """Safe to use from many threads."""

    threads: int  # how many files it is worth to finish at a time

    def begin(self, file: str) -> Part:
        """A new file. Raises OSError."""

    def has(self, file: str, size: int) -> bool:
        """Whether the file, which was there once, is there still, as far as that can be told at once."""

    def sha256(self, file: str) -> str | None:
        """Of what is there; None where nothing is. Raises OSError."""


def open_sink(target: str) -> Sink:
    """The folder or URL called ``target``. Raises Unavailable where a package is missing, OSError."""
    if "://" not in target or target.startswith("file://"):
        from weightloom.materialize.folder import Folder

        return Folder(Path(target.removeprefix("file://")))
    try:
        from weightloom.materialize.remote import Remote

        return Remote(target)
    except ImportError as error:
        message = f"{target} needs fsspec: pip install 'weightloom[materialize]', and what it names ({error})"
        raise Unavailable(message, code="missing_extra") from error
    except ValueError as error:
        raise InvalidInput.at("TARGET", target, f"a folder, or a URL that fsspec knows ({error})") from error


def wrong_bytes(file: str, found: str | None, sha256: str) -> Unavailable:
    """What was read back is not what was written."""
    message = f"{file}: what was written reads back as SHA-256 {found}, expected {sha256}"
    return Unavailable(message, code="target_unavailable")
