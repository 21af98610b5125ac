"""Text for people, and files that are there whole or not at all."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from rich.console import Console

__all__ = ["console", "whole_file"]


def console(*, stderr: bool = False) -> Console:
    """A console as wide as the terminal; where there is none (a pipe, a file), wide enough to cut nothing."""
    plain = Console(stderr=stderr)
    return Console(stderr=stderr, highlight=False, soft_wrap=True, width=None if plain.is_terminal else 240)


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A file beside ``path`` that takes its name once it is whole and on disk, and leaves nothing behind otherwise.

    Links are followed; what is no regular file (a pipe, a device) is written to as it is.
    """
    path = path.resolve()
    if path.exists() and not path.is_file():
        with path.open("wb") as file:  # raises IsADirectoryError for a folder
            yield file
        return
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        with beside.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
