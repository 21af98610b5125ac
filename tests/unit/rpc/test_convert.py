"""Chunks that are written by hand are those that protobuf would write."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from weightloom.rpc import convert
from weightloom_proto.v1 import fabrication_pb2 as pb

FIRST = pb.FabricateChunk(total_size=2**63, etag='"wl1-x"', model_digest="ab")


@given(st.binary(max_size=500) | st.integers(1, 5).map(lambda i: b"x" * ((1 << (7 * i)) % 3_000_000)))
def test_chunks_parse_as_the_contract_says(data: bytes) -> None:
    chunks = [pb.FabricateChunk.FromString(chunk) for chunk in convert.chunks(memoryview(data))]
    assert b"".join(chunk.data for chunk in chunks) == data
    assert all(not chunk.etag for chunk in chunks)


@pytest.mark.parametrize("size", [0, 1, 127, 128, 1 << 20, (1 << 20) + 1, 3 << 20])
def test_the_first_chunk_has_the_fields_of_the_file_too(size: int) -> None:
    chunks = list(convert.chunks(memoryview(b"x" * size), FIRST.SerializeToString()))
    assert len(chunks) == max(1, -(-size // (1 << 20)))
    first = pb.FabricateChunk.FromString(chunks[0])
    assert first.data == b"x" * min(size, 1 << 20)
    first.ClearField("data")
    assert first == FIRST
    assert sum(len(pb.FabricateChunk.FromString(chunk).data) for chunk in chunks) == size
