"""The table of what is to be made: JSON lines, or Parquet. It is read as it is needed, and never held whole."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import IO, Any

from pydantic_core import from_json

from weightloom.errors import InvalidInput, MalformedBody, Unavailable, WeightloomError
from weightloom.requests import FabricateRequest

__all__ = ["MAX_LINE_BYTES", "STATE_FOLDER", "Row", "Rows", "checked_file", "open_table"]

MAX_LINE_BYTES = 64 << 20
PIECE_BYTES = 1 << 20
MAX_FILE_BYTES = 1024  # of a file's name with its folders
BOM = b"\xef\xbb\xbf"  # editors on Windows begin a file with it
STATE_FOLDER = ".weightloom"
SUFFIXES = (".jsonl", ".ndjson", ".parquet")


@dataclass(slots=True)
class Row:
    """A row, read as far as it takes to tell whose it is; see ``Item``. model: as the row names it; None for inline."""

    number: int
    file: str
    body: bytes | FabricateRequest
    model: str | None
    size: int


@dataclass
class Rows:
    """total: how many there are, where that is known. Iterating gives each row, or its number, file and error."""

    total: int | None
    rows: Iterator[Row | tuple[int, str, WeightloomError]]


@contextmanager
def open_table(table: str, default_model: str | None) -> Iterator[Rows]:
    """The rows of a file, or of an fsspec URL, by its suffix. default_model: of rows that name none.

    Raises InvalidInput for another suffix or unknown columns, Unavailable where a package is missing, OSError.
    """
    suffix = Path(table.rpartition("/")[2]).suffix
    if suffix not in SUFFIXES:
        raise InvalidInput.at("TABLE", table, "a file that ends in " + ", ".join(SUFFIXES))
    with ExitStack() as stack:
        with _told(table):
            source = stack.enter_context(_opened(table))
            if suffix == ".parquet":
                from weightloom.materialize.parquet import parquet_rows

                rows = parquet_rows(source, default_model)
            else:
                # what fsspec opens may read whole lines only, however long they are
                lines = source if isinstance(source, BufferedReader) else BufferedReader(source, PIECE_BYTES)
                rows = Rows(_count_rows(source), _json_rows(lines, default_model))
        yield Rows(rows.total, _told_rows(table, rows))


def _opened(table: str) -> Any:
    if "://" not in table:
        return Path(table).open("rb")
    try:
        import fsspec

        return fsspec.open(table, "rb")
    except ImportError as error:
        message = f"{table} needs fsspec: pip install 'weightloom[materialize]', and what it names ({error})"
        raise Unavailable(message, code="missing_extra") from error
    except ValueError as error:
        raise InvalidInput.at("TABLE", table, f"a file, or a URL that fsspec knows ({error})") from error


@contextmanager
def _told(table: str) -> Iterator[None]:
    """What the file system of a URL raises, of any type and often but a path, as an OSError that says so."""
    try:
        yield
    except WeightloomError:
        raise
    except Exception as error:
        if "://" not in table:
            raise
        raise OSError(f"the table {table} cannot be read: {type(error).__name__}: {error}") from error


def _told_rows(table: str, rows: Rows) -> Iterator[Row | tuple[int, str, WeightloomError]]:
    with _told(table):
        yield from rows.rows


def checked_file(file: object) -> str:
    """A file's place under the target. Raises InvalidInput for what could lie elsewhere, or among our own files."""
    expected = f"a relative path of at most {MAX_FILE_BYTES} bytes, with '/' between folders, without '.' and '..'"
    if not isinstance(file, str):
        raise InvalidInput.at("file", "nothing" if file is None else repr(file), expected)
    parts = file.split("/")
    is_plain = all(ord(c) >= 0x20 and c not in "\\\x7f" and not 0xD800 <= ord(c) <= 0xDFFF for c in file)
    if not is_plain or any(part in ("", ".", "..") for part in parts) or len(file.encode()) > MAX_FILE_BYTES:
        raise InvalidInput.at("file", repr(file), expected)
    if parts[0].casefold().rstrip(". ") == STATE_FOLDER or (os.name == "nt" and ":" in file):
        raise InvalidInput.at("file", repr(file), f"a place outside of {STATE_FOLDER}/")
    return file


def _count_rows(source: IO[bytes]) -> int | None:
    """Lines that are not empty, where the file can cheaply be read twice: a gigabyte takes about a second."""
    if not isinstance(source, BufferedReader) or not source.seekable():
        return None
    total, is_blank = 0, True
    while piece := source.readline(PIECE_BYTES):
        is_blank = is_blank and not piece.strip()
        if piece.endswith(b"\n"):
            total, is_blank = total + (not is_blank), True
    source.seek(0)
    return total + (not is_blank)


def _json_rows(source: IO[bytes], default_model: str | None) -> Iterator[Row | tuple[int, str, WeightloomError]]:
    number = 0
    while line := source.readline(MAX_LINE_BYTES + 1):
        number += 1
        file = ""
        try:
            if len(line) > MAX_LINE_BYTES:
                _skip_line(source, line)
                raise InvalidInput.at("row", f"over {MAX_LINE_BYTES} bytes", "less in a line; or Parquet")
            line = line.removeprefix(BOM) if number == 1 else line
            if not line.strip():
                continue
            value = _object(line)
            file = checked_file(value.get("file"))
            yield Row(number, file, line, _model_of(value, default_model), len(line))
        except WeightloomError as error:
            yield number, file, error


def _skip_line(source: IO[bytes], line: bytes) -> None:
    while line and not line.endswith(b"\n"):
        line = source.readline(MAX_LINE_BYTES)


def _object(line: bytes) -> dict[str, Any]:
    try:
        value = from_json(line)
    except ValueError as error:
        raise MalformedBody(f"the row is not JSON: {error}", code="malformed_json") from error
    if not isinstance(value, dict):
        raise InvalidInput.at("row", type(value).__name__, "an object")
    return value


def _model_of(value: dict[str, Any], default: str | None) -> str | None:
    """The model that a row names; None where it brings a spec."""
    if "seed" in value:
        return None  # with a model, too, the request's reader says what is wrong
    model = value.get("model", default)
    if not isinstance(model, str):
        got = "nothing" if model is None else repr(model)
        raise InvalidInput.at("model", got, "a model's name or digest, or 'seed' and 'tensors'; or one --model for all")
    return model
