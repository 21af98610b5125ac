"""The safetensors format: headers of files that we make, and a strict reader for the small files that carry w's.

A file is 8 bytes of header length (little-endian), the header as JSON, and the tensors' bytes. Our header bytes are
part of "the same bytes": compact JSON in model order, padded with spaces to a multiple of 8 bytes.
Format: https://github.com/huggingface/safetensors
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from weightloom.errors import InvalidW, LimitExceeded, MalformedBody, WeightloomError
from weightloom.fabric.dtypes import widen

__all__ = ["MAX_HEADER_BYTES", "Entry", "build_header", "header_of", "layout", "parse", "tensor", "write"]

MAX_HEADER_BYTES = 100_000_000  # the reference reader refuses longer ones
MAX_FILE_BYTES = (1 << 63) - 1  # offsets are 64-bit
ALIGNMENT = 8
MAX_DIMENSIONS = 32
ITEM_BYTES = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 8),
    **dict.fromkeys(("F32", "I32", "U32"), 4),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 2),
    **dict.fromkeys(("F8_E5M2", "F8_E4M3", "I8", "U8", "BOOL"), 1),
}
W_DTYPES: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
}

Array = npt.NDArray[Any]


def build_header(metadata: Mapping[str, str], tensors: Iterable[tuple[str, str, tuple[int, ...], int]]) -> bytes:
    """The length and header of a file of ``tensors`` (name, dtype, shape, bytes), laid end to end in this order.

    Raises LimitExceeded where no reader could hold the file's offsets, or would refuse its header for its length.
    """
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    offset = 0
    for name, dtype, shape, size in tensors:
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": (offset, offset + size)}
        offset += size
    if offset > MAX_FILE_BYTES:
        raise LimitExceeded.at("tensors", f"{offset} bytes", f"at most {MAX_FILE_BYTES}", code="output_too_large")
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    if len(text) > MAX_HEADER_BYTES:
        expected = f"at most {MAX_HEADER_BYTES}, the limit of safetensors readers"
        raise LimitExceeded.at("tensors", f"a header of {len(text)} bytes", expected, code="output_too_large")
    return struct.pack("<Q", len(text)) + text


def write(metadata: Mapping[str, str], tensors: Mapping[str, npt.NDArray[np.float32]]) -> bytes:
    """A whole file of float32 tensors (C-contiguous, little-endian): for w's, which are small."""
    entries = [(name, "F32", array.shape, array.nbytes) for name, array in tensors.items()]
    return b"".join([build_header(metadata, entries), *(array.tobytes() for array in tensors.values())])


def parse(body: bytes | memoryview) -> tuple[dict[str, Array], dict[str, str]]:
    """Tensors and metadata of a whole file of floats; arrays of the file's shapes (BF16 widened to float32).

    Raises MalformedBody as ``layout`` does, InvalidW for a dtype that no w can have.
    """
    entries, metadata = layout(body)
    return {name: tensor(entry, body) for name, entry in entries.items()}, metadata


def header_of(body: bytes) -> bytes:
    """The first bytes of a file up to its data, or all of a body that is too short to be one."""
    return body[: 8 + int.from_bytes(body[:8], "little")]


@dataclass(frozen=True)
class Entry:
    """A tensor of a file: bytes ``begin`` ... ``end - 1`` of the whole file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def layout(body: bytes | memoryview, size: int | None = None) -> tuple[dict[str, Entry], dict[str, str]]:
    """Where each tensor lies in a file, and the file's metadata.

    body: the whole file, or its header alone where ``size``, the bytes of the whole file, is given.
    Raises MalformedBody where anything is not as the format says: truncated, overlapping or unused bytes, a header
    longer than the file, names that come twice, unknown dtypes.
    """
    size = len(body) if size is None else size
    header, start = _header(memoryview(body))
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise _malformed("__metadata__", metadata, "an object of strings")
    entries = {name: _entry(name, fields, start, size) for name, fields in header.items()}
    _check_cover(entries.values(), start, size)
    return entries, metadata


def tensor(entry: Entry, body: bytes | memoryview) -> Array:
    """A tensor's numbers, BF16 widened to float32. Raises InvalidW for a dtype that no w can have."""
    if entry.dtype not in W_DTYPES:
        raise InvalidW.at(
            f"w[{entry.name!r}].dtype", entry.dtype, "one of " + ", ".join(W_DTYPES), code="w_wrong_dtype"
        )
    dtype = W_DTYPES[entry.dtype]
    array = np.frombuffer(body, dtype, math.prod(entry.shape), entry.begin).reshape(entry.shape)
    return widen(array) if entry.dtype == "BF16" else array


def _header(body: memoryview) -> tuple[dict[str, Any], int]:
    """The header's JSON object, and where the data begins."""
    if len(body) < ALIGNMENT:
        raise _malformed("body", f"{len(body)} bytes", "at least the 8 bytes of the header's length")
    (length,) = struct.unpack("<Q", body[:8])
    if length > len(body) - 8 or length > MAX_HEADER_BYTES:
        raise _malformed("header length", length, f"at most the {len(body) - 8} bytes that follow")
    try:
        header = json.loads(bytes(body[8 : 8 + length]), object_pairs_hook=_no_repeats)
    except (ValueError, RecursionError) as error:
        raise _malformed("header", f"no JSON ({error})", "a JSON object") from error
    if not isinstance(header, dict):
        raise _malformed("header", type(header).__name__, "a JSON object")
    return header, 8 + length


def _no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key comes twice in one object")
    return result


def _entry(name: str, fields: Any, start: int, stop: int) -> Entry:
    if not isinstance(fields, dict) or set(fields) != {"dtype", "shape", "data_offsets"}:
        raise _malformed(name, fields, "an object of dtype, shape and data_offsets")
    dtype, shape, offsets = fields["dtype"], fields["shape"], fields["data_offsets"]
    if not isinstance(dtype, str) or dtype not in ITEM_BYTES:
        raise _malformed(f"{name}.dtype", dtype, "one of " + ", ".join(ITEM_BYTES))
    if not _naturals(shape) or len(shape) > MAX_DIMENSIONS:
        raise _malformed(f"{name}.shape", shape, f"a list of at most {MAX_DIMENSIONS} non-negative integers")
    if not _naturals(offsets) or len(offsets) != 2 or not offsets[0] <= offsets[1] <= stop - start:
        raise _malformed(f"{name}.data_offsets", offsets, f"[begin, end] within the {stop - start} bytes of data")
    size = math.prod(shape) * ITEM_BYTES[dtype]
    if math.prod(filter(None, shape)) * ITEM_BYTES[dtype] > MAX_FILE_BYTES:  # readers count before they meet the 0
        raise _malformed(
            f"{name}.shape", shape, f"dimensions whose product, without any 0, is within {MAX_FILE_BYTES} bytes"
        )
    if offsets[1] - offsets[0] != size:
        raise _malformed(f"{name}.data_offsets", offsets, f"{size} bytes for {dtype} of shape {shape}")
    return Entry(name, dtype, tuple(shape), start + offsets[0], start + offsets[1])


def _naturals(value: Any) -> bool:
    return isinstance(value, list) and all(type(x) is int and 0 <= x <= MAX_FILE_BYTES for x in value)


def _check_cover(entries: Iterable[Entry], start: int, stop: int) -> None:
    end = start
    for entry in sorted(entries, key=lambda entry: (entry.begin, entry.end)):
        if entry.begin != end:
            problem = "overlapping bytes" if entry.begin < end else "unused bytes"
            raise _malformed(f"{entry.name}.data_offsets", problem, "tensors laid end to end")
        end = entry.end
    if end != stop:
        raise _malformed("body", f"{stop - start} bytes of data", f"{end - start} bytes, where the last tensor ends")


def _malformed(field: str, got: object, expected: str) -> WeightloomError:
    return MalformedBody.at(field, got, expected, code="malformed_safetensors")
