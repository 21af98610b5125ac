"""Factor streams: the known answers, and any range alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.vectors import VECTORS, bits
from weightloom.fabric import kernels_cpu, streams
from weightloom.fabric.streams import FactorStream, factor_stream, philox4x32_10

NORMALS = [pytest.param(streams.normals, id="numpy"), pytest.param(kernels_cpu.normals, id="numba")]
Normals = Callable[[FactorStream, int, int], Any]


@pytest.mark.parametrize("entry", VECTORS["philox4x32_10"])
def test_philox_gives_the_published_answers(entry: dict[str, Any]) -> None:
    counter = tuple(np.array([int(word, 16)], np.uint32) for word in entry["counter"])
    key = tuple(int(word, 16) for word in entry["key"])
    assert [f"{word[0]:08x}" for word in philox4x32_10(counter, key)] == entry["out"]  # type: ignore[arg-type]


@pytest.mark.parametrize("normals", NORMALS)
@pytest.mark.parametrize("entry", VECTORS["normals"])
def test_normals_give_the_known_answers(entry: dict[str, Any], normals: Normals) -> None:
    stream = factor_stream(int(entry["seed"]), entry["tensor"], entry["factor"])
    assert stream.stream == int(entry["stream"])
    assert bits(normals(stream, int(entry["start"]), len(entry["float32_bits"]))) == entry["float32_bits"]


@given(
    seed=st.integers(0, 2**64 - 1),
    stream=st.integers(0, 2**64 - 1),
    start=st.one_of(st.integers(0, 5000), st.integers(0, 2**60), st.sampled_from([2**34 - 2, 2**34, 2**60 - 3])),
    count=st.integers(0, 5000),
)
def test_numba_draws_the_bits_of_the_reference(seed: int, stream: int, start: int, count: int) -> None:
    which = FactorStream(seed, stream)
    expected = streams.normals(which, start, count)
    np.testing.assert_array_equal(kernels_cpu.normals(which, start, count).view(np.uint32), expected.view(np.uint32))


@given(data=st.data(), size=st.integers(1, 3000))
def test_any_range_of_a_stream_is_the_same_range_of_the_whole(data: st.DataObject, size: int) -> None:
    which = FactorStream(7, 11)
    whole = kernels_cpu.normals(which, 0, size)
    first = data.draw(st.integers(0, size))
    last = data.draw(st.integers(first, size))
    np.testing.assert_array_equal(kernels_cpu.normals(which, first, last - first), whole[first:last])


def test_streams_differ_between_tensors_factors_and_seeds() -> None:
    names = [(seed, tensor, factor) for seed in (0, 1) for tensor in ("a", "aP", "b") for factor in "PQST"]
    firsts = {streams.normals(factor_stream(*name), 0, 4).tobytes() for name in names}
    assert len(firsts) == len(names)
