"""Hostile values, and documents that are nearly right."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

from hypothesis import strategies as st

__all__ = ["SPEC_BODIES", "hostile_values", "json_values", "mutated", "queries", "safetensors_bodies"]

EDGES = (0, 1, -1, 2**31, 2**32, 2**53, 2**62, 2**63 - 1, 2**63, 2**64, 10**30, 10**400)
TEXTS = ("", "a", "\0", "\ud800", "\U0010ffff", "__metadata__", "../..", "a" * 600, "0" * 64, "é" * 300, "w[0]", "{}")
NUMBERS = st.sampled_from(EDGES) | st.integers(-4, 70) | st.floats()
texts = st.sampled_from(TEXTS) | st.text(max_size=4)
LEAVES = st.none() | st.booleans() | NUMBERS | texts
KEYS = (
    "name",
    "seed",
    "tensors",
    "model",
    "w",
    "rows",
    "dtype",
    "shape",
    "l",
    "r",
    "kind",
    "offset",
    "length",
    "value",
)
DTYPES = ("F32", "F64", "F16", "BF16", "I32", "BOOL", "C64", "F4", "")


def json_values() -> st.SearchStrategy[Any]:
    """Any value of JSON (and NaN), with keys that documents have."""
    keys = st.sampled_from(KEYS) | texts
    return st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4))


def hostile_values() -> st.SearchStrategy[Any]:
    """A value to stand where another belongs."""
    return LEAVES | st.lists(LEAVES, max_size=3) | st.dictionaries(texts, LEAVES, max_size=2)


def _tensors() -> st.SearchStrategy[dict[str, Any]]:
    common: dict[str, st.SearchStrategy[Any]] = {"name": texts, "shape": st.lists(NUMBERS, max_size=4)}
    more: dict[str, st.SearchStrategy[Any]] = {
        "kind": st.sampled_from(("random_matrix_hypernet", "identity", "constant", "imported_hypernet")) | texts,
        "value": st.sampled_from(("zeros", "ones", "eye")) | LEAVES,
        "factors_sha256": texts,
        **dict.fromkeys(("l", "r", "hidden_dim", "scale"), NUMBERS),
    }
    return st.fixed_dictionaries(common, optional=more)


def _documents() -> st.SearchStrategy[dict[str, Any]]:
    vectors = st.lists(NUMBERS, max_size=5) | st.lists(st.lists(NUMBERS, max_size=3), max_size=3)
    fields: dict[str, st.SearchStrategy[Any]] = {
        "name": st.just("a/b") | texts,
        "model": texts,
        "seed": st.just(1) | LEAVES,
        "tensors": st.lists(_tensors(), max_size=3) | st.lists(texts, max_size=3),
        "w": st.dictionaries(texts, vectors, max_size=3),
        "rows": st.dictionaries(texts, st.lists(NUMBERS, max_size=3), max_size=2),
        **dict.fromkeys(("offset", "length"), NUMBERS),
        "dtype": st.sampled_from(DTYPES),
    }
    return st.fixed_dictionaries({}, optional=fields)


SPEC_BODIES = _documents().map(lambda value: json.dumps(value).encode())


def mutated(body: bytes) -> st.SearchStrategy[bytes]:
    """A body, or one with some bytes overwritten, taken out, put in, or with its end cut off."""
    place = st.integers(0, len(body))
    edits = st.tuples(place, st.integers(0, 4), st.binary(max_size=6))
    return st.lists(edits, max_size=3).map(lambda all_edits: _edited(body, all_edits)) | place.map(
        lambda end: body[:end]
    )


def _edited(body: bytes, edits: list[tuple[int, int, bytes]]) -> bytes:
    for at, length, new in edits:
        body = body[:at] + new + body[at + length :]
    return body


def safetensors_bodies() -> st.SearchStrategy[bytes]:
    """Files whose header is JSON of the right form with hostile values, of a length that may be wrong."""
    naturals = st.sampled_from(EDGES) | st.integers(-1, 16)
    entry = st.fixed_dictionaries(
        {
            "dtype": st.sampled_from(DTYPES),
            "shape": st.lists(naturals, max_size=4) | LEAVES,
            "data_offsets": st.lists(naturals, min_size=1, max_size=3) | st.just([0, 0]),
        }
    )
    spec = st.builds(lambda document, *_: document.decode(), SPEC_BODIES)
    metadata = st.dictionaries(st.sampled_from(("weightloom.spec", "weightloom.options", "format")), spec | texts)
    headers = st.dictionaries(texts, entry | hostile_values(), max_size=3)
    wrong_lengths = st.sampled_from((0, 0, 0, 0, 1, -1, 2**62))
    return st.builds(_file, headers, st.none() | metadata, st.binary(max_size=16), wrong_lengths)


def _file(header: dict[str, Any], metadata: dict[str, str] | None, data: bytes, wrong: int) -> bytes:
    text = json.dumps(header | ({} if metadata is None else {"__metadata__": metadata})).encode()
    return struct.pack("<Q", max(0, len(text) + wrong)) + text + data


def queries() -> st.SearchStrategy[str]:
    """Queries of a URL, as they come: percent-encoded, or not."""
    names = st.sampled_from(("model", "dtype", "tensors", "rows", "offset", "length", "x", ""))
    encodings: tuple[Callable[[str], str], ...] = (lambda text: quote(text, errors="replace"), lambda text: text)
    values = st.sampled_from(("a=0:1", "=:", "a=%ff:1", "9" * 30, "-1", "٣", "F16", "%zz")) | texts
    pair = st.builds(lambda name, value, encode: f"{name}={encode(value)}", names, values, st.sampled_from(encodings))
    return st.lists(pair | texts, max_size=5).map("&".join)
