"""What is handed to those who make files, and what they answer. All of it can be pickled."""

from __future__ import annotations

import errno
from dataclasses import dataclass
from typing import Literal

from weightloom.errors import InvalidInput, Unavailable, WeightloomError
from weightloom.requests import FabricateRequest

__all__ = ["Batch", "Item", "Known", "Outcome", "failure"]


@dataclass(frozen=True, slots=True)
class Known:
    """What an earlier run has made: the file's ETag, bytes and SHA-256.

    is_sure: whether it must be on disk still; False where the machine has stopped before that was certain.
    """

    etag: str
    size: int
    sha256: str
    is_sure: bool = True


@dataclass(slots=True)
class Item:
    """One file to be made: its place under the target, and the request that POST /fabricate would get for it.

    row: number in the table, from 1. body: the row's JSON (with its other fields), or the request where the table has
    columns. model: key of the model's spec in the batch; None where the request brings its own.
    """

    row: int
    file: str
    body: bytes | FabricateRequest
    model: str | None
    known: Known | None = None


@dataclass(slots=True)
class Batch:
    """Items of one model, mostly. specs: JSON of the specs by the items' keys. tries: deaths of workers it has seen."""

    items: list[Item]
    specs: dict[str, bytes]
    tries: int = 0


@dataclass(slots=True)
class Outcome:
    """What became of a row: made, kept (the very file was there), or failed with an error's ``code`` and ``detail``.

    etag, size (bytes) and sha256 are those of the file.
    """

    row: int
    file: str
    state: Literal["made", "kept", "failed"]
    etag: str = ""
    size: int = 0
    sha256: str = ""
    code: str = ""
    detail: str = ""


def failure(row: int, file: str, error: BaseException) -> Outcome:
    """A row that failed. The system's errors are told by their words, what nobody expects by its type, too.

    A name that the target's file system finds too long is the row's fault, so that many of them do not end the run.
    """
    if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
        error = InvalidInput.at(
            "file", file, "names as short as the target's file system wants them (mostly 255 bytes)"
        )
    elif isinstance(error, OSError):
        error = Unavailable(str(error), code="target_unavailable")
    elif not isinstance(error, WeightloomError):
        error = WeightloomError(f"{type(error).__name__}: {error}")
    return Outcome(row, file, "failed", code=error.code, detail=error.message)
