"""What reads untrusted bytes raises nothing but WeightloomError, in time and memory that the bytes bound."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest
from fuzz.strategies import SPEC_BODIES, json_values, mutated, queries, safetensors_bodies
from hypothesis import given
from hypothesis import strategies as st
from weightloom.errors import WeightloomError
from weightloom.fabric import ModelSpec, safetensors
from weightloom.requests import options_from_query, request_from_json, request_from_safetensors

FLOOR, TIMES = 2 << 20, 100  # bytes for a body of any size, and for each byte of it; Python's own objects take that
MIB = 1 << 20


def read_file(body: bytes) -> None:
    safetensors.parse(body)


def read_request_file(body: bytes) -> None:
    request_from_safetensors(body, options_from_query("model=a"))


READERS: dict[str, Callable[[bytes], object]] = {
    "safetensors": read_file,
    "request as safetensors": read_request_file,
    "request as JSON": request_from_json,
    "spec": ModelSpec.parse,
}


def survive(read: Callable[[Any], object], body: Any) -> WeightloomError | None:
    """Read it: the error, whose text must be short whatever came."""
    found = None
    try:
        read(body)
    except WeightloomError as error:
        found = error
    if found is not None:
        assert len(found.message) < 10_000
        assert len(found.violations) <= 100
        assert all(len(violation.field) < 2000 for violation in found.violations)
    return found


@pytest.mark.parametrize("reader", READERS)
@given(st.binary(max_size=200))
def test_any_bytes(reader: str, body: bytes) -> None:
    survive(READERS[reader], body)


@pytest.mark.parametrize("reader", ["request as JSON", "spec"])
@given(json_values())
def test_any_json(reader: str, value: object) -> None:
    survive(READERS[reader], json.dumps(value).encode())


@pytest.mark.parametrize("reader", ["request as JSON", "spec"])
@given(SPEC_BODIES.flatmap(mutated))
def test_documents_that_are_nearly_right(reader: str, body: bytes) -> None:
    survive(READERS[reader], body)


@pytest.mark.parametrize("reader", ["safetensors", "request as safetensors"])
@given(safetensors_bodies())
def test_headers_that_are_nearly_right(reader: str, body: bytes) -> None:
    survive(READERS[reader], body)


@given(queries())
def test_any_query(query: str) -> None:
    survive(options_from_query, query)


def _header(value: object) -> bytes:
    text = json.dumps(value).encode()
    return len(text).to_bytes(8, "little") + text


def _options(value: object) -> bytes:
    return _header({"__metadata__": {"weightloom.options": json.dumps(value)}})


MANY = 20_000
KEYS: dict[str, Any] = dict.fromkeys(map(str, range(MANY)), 0)
SPEC: dict[str, Any] = {"name": "a", "seed": 1, "tensors": [{"name": "t", "shape": [1]}]}
GREEDY: dict[str, tuple[str, bytes]] = {
    "fields that nobody knows": ("request as JSON", json.dumps(KEYS | {"model": "a"}).encode()),
    "wrong rows": ("request as JSON", json.dumps({"model": "a", "rows": KEYS}).encode()),
    "w's that are none": ("request as JSON", json.dumps({"model": "a", "w": KEYS}).encode()),
    "names that are none": ("request as JSON", json.dumps({"model": "a", "tensors": [0] * MANY}).encode()),
    "options that nobody knows": ("request as safetensors", _options(KEYS)),
    "names in options that are none": ("request as safetensors", _options({"tensors": [0] * MANY})),
    "a spec of fields that nobody knows": ("spec", json.dumps(KEYS | SPEC).encode()),
    "a tensor of fields that nobody knows": (
        "spec",
        json.dumps(SPEC | {"tensors": [KEYS | SPEC["tensors"][0]]}).encode(),
    ),
    "tensors that are none": ("spec", json.dumps(SPEC | {"tensors": [0] * MANY}).encode()),
    "dimensions that are none": (
        "spec",
        json.dumps(SPEC | {"tensors": [{"name": "t", "shape": ["x"] * MANY}]}).encode(),
    ),
    "a long name": ("safetensors", _header({"x" * MIB: 0})),
    "many dimensions": (
        "safetensors",
        _header({"a": {"dtype": "F32", "shape": [2**62] * MANY, "data_offsets": [0, 0]}}),
    ),
    "many entries": (
        "safetensors",
        _header({name: {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for name in KEYS}),
    ),
    "brackets": ("request as JSON", b"[" * MIB),
    "brackets of a spec": ("spec", b"[" * MIB),
    "digits": ("request as JSON", b'{"model":"a","w":{"t":[1.000000059604644775390625' + b"0" * MIB + b"1]}}"),
    "digits of a spec": ("spec", b'{"name":"a","seed":' + b"9" * MIB + b"}"),
}


@pytest.mark.parametrize("what", GREEDY)
def test_memory_is_bounded_by_the_body(what: str) -> None:
    reader, body = GREEDY[what]
    tracemalloc.start()
    try:
        survive(READERS[reader], body)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < FLOOR + TIMES * len(body), f"{peak / len(body):.0f} bytes for each of {len(body)}"


def test_long_queries_are_not_remembered() -> None:
    tracemalloc.start()
    try:
        for number in range(20):
            survive(options_from_query, "&".join(f"rows={number}_{i}=0:{i + 300}" for i in range(3000)))
        kept = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert kept < 2 * MIB
