"""The safetensors reader and writer, against the reference library."""

from __future__ import annotations

import json
import struct
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import safetensors
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st
from weightloom.errors import InvalidInput, InvalidW, MalformedBody
from weightloom.fabric.safetensors import layout, parse, write

DTYPES = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}


def raw(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def tensor(begin: int, end: int, shape: list[int] | None = None, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": [(end - begin) // 4] if shape is None else shape, "data_offsets": [begin, end]}


@given(st.dictionaries(st.text(max_size=5), st.sampled_from(sorted(DTYPES)), max_size=5), st.integers(0, 3))
def test_files_of_the_reference_library_are_read(names: dict[str, str], size: int) -> None:
    names.pop("__metadata__", None)
    random = np.random.default_rng(0)
    given_arrays = {name: random.standard_normal((2, size)).astype(DTYPES[dtype]) for name, dtype in names.items()}
    arrays, metadata = parse(safetensors.numpy.save(given_arrays, {"key": "value"}))
    assert metadata == {"key": "value"}
    assert set(arrays) == set(given_arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, given_arrays[name].astype(array.dtype))


def test_files_that_we_write_are_read_by_the_reference_library() -> None:
    arrays = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "слой": np.zeros(4, np.float32)}
    loaded = safetensors.numpy.load(write({"k": "v"}, arrays))
    assert {name: array.tolist() for name, array in loaded.items()} == {n: a.tolist() for n, a in arrays.items()}


MALFORMED = {
    "empty": b"",
    "seven bytes": b"1234567",
    "header longer than the file": raw({}, length=100),
    "huge header length": raw({}, length=2**64 - 1),
    "no json": raw(b"{nope"),
    "no utf-8": raw(b"\xff\xfe"),
    "no object": raw([1]),
    "deep json": raw(b"[" * 100_000),
    "a name twice": raw(b'{"a":%b,"a":%b}' % ((json.dumps(tensor(0, 4)).encode(),) * 2), b"0000"),
    "truncated data": raw({"a": tensor(0, 8)}, b"0000"),
    "unused bytes at the end": raw({"a": tensor(0, 4)}, b"00000000"),
    "a hole": raw({"a": tensor(0, 4), "b": tensor(8, 12)}, b"0" * 12),
    "overlap": raw({"a": tensor(0, 8), "b": tensor(4, 12)}, b"0" * 12),
    "the same bytes twice": raw({"a": tensor(0, 8), "b": tensor(0, 8)}, b"0" * 8),
    "offsets the wrong way": raw({"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}}, b"0000"),
    "offsets negative": raw({"a": {"dtype": "F32", "shape": [1], "data_offsets": [-4, 0]}}, b"0000"),
    "offsets that are floats": raw({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0.0, 4.0]}}, b"0000"),
    "size and shape differ": raw({"a": tensor(0, 8, [3])}, b"0" * 8),
    "shape negative": raw({"a": tensor(0, 4, [-1])}, b"0000"),
    "shape enormous beside a 0": raw({"a": tensor(0, 0, [2**62, 2**62, 0])}),
    "shape enormous behind a 0": raw({"a": tensor(0, 0, [0, 2**62, 2**62])}),
    "shape enormous": raw({"a": tensor(0, 4, [2**62, 2**62])}, b"0000"),
    "shape of 4000 digits": raw({"a": tensor(0, 4, [10**4000, 10**4000])}, b"0000"),
    "too many dimensions": raw({"a": tensor(0, 4, [1] * 33)}, b"0000"),
    "no fields": raw({"a": {}}),
    "a field too many": raw({"a": tensor(0, 4) | {"more": 1}}, b"0000"),
    "unknown dtype": raw({"a": tensor(0, 4, dtype="F31")}, b"0000"),
    "metadata not of strings": raw({"__metadata__": {"a": 1}}),
}


@pytest.mark.parametrize("body", MALFORMED.values(), ids=MALFORMED.keys())
def test_malformed_files_are_refused(body: bytes) -> None:
    with pytest.raises(MalformedBody) as caught:
        layout(body)
    assert caught.value.code == "malformed_safetensors"
    assert caught.value.violations[0].expected


def test_a_dtype_that_no_w_can_have_is_named() -> None:
    body = safetensors.numpy.save({"a": np.ones(2, np.int32)})
    assert layout(body)[0]["a"].dtype == "I32"
    with pytest.raises(InvalidW, match=r"w\['a'\]\.dtype: got I32, expected one of F64, F32, F16, BF16"):
        parse(body)


@given(st.binary(max_size=200), st.integers(0, 300))
def test_no_bytes_whatever_break_the_reader(data: bytes, length: int) -> None:
    for body in (data, struct.pack("<Q", length) + data):
        assert refused(body) or isinstance(parse(body)[0], dict)


def refused(body: bytes) -> bool:
    try:
        parse(body)
    except InvalidInput:
        return True
    return False


@given(st.data())
def test_a_damaged_file_is_refused_or_read_like_the_reference_library_does(data: st.DataObject) -> None:
    body = bytearray(write({"k": "v"}, {"a": np.ones((2, 3), np.float32), "b": np.zeros(4, np.float32)}))
    body[data.draw(st.integers(0, len(body) - 33))] = data.draw(st.integers(0, 255))
    if refused(bytes(body)):
        return
    arrays, _ = parse(bytes(body))
    loaded = safetensors.numpy.load(bytes(body))
    assert {n: a.shape for n, a in arrays.items()} == {n: a.shape for n, a in loaded.items()}
