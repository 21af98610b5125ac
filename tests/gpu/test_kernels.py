"""The kernels give the known answers, and the reference's bits for any shape, dtype, range and batch."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.vectors import KNOWN_FILES, KNOWN_IDS, VECTORS, KnownFile, bits
from weightloom.fabric import DType, kernels_cuda, load_backend, reference, streams
from weightloom.fabric.factors import BUILD, READ, Factors
from weightloom.fabric.gpu.gpu import Gpu
from weightloom.fabric.passes import Piece
from weightloom.fabric.streams import FactorStream, factor_stream

POISON = 0xAB

# By the interpreter: casts to float16, and what is made of rows that are not there and not wanted.
pytestmark = pytest.mark.filterwarnings("ignore:(invalid value|overflow) encountered in:RuntimeWarning")


def piece(start: int, dtype: DType, rows: int, count: int) -> Piece:
    out = np.full((rows, count * dtype.itemsize), POISON, np.uint8).view(dtype.storage)
    return Piece(None, 0, start, dtype, out)  # type: ignore[arg-type]


def check_against_the_reference(gpu: Gpu, factors: Factors, h: Any, pieces: list[Piece], kept: Any = None) -> None:
    expected = [piece(one.start, one.dtype, *one.out.shape) for one in pieces]
    reference.weave(factors, h, expected)
    gpu.weave(factors, h, pieces, kept)
    for one, other in zip(pieces, expected, strict=True):
        assert one.out.tobytes() == other.out.tobytes()


@pytest.mark.parametrize("entry", VECTORS["normals"])
def test_normals_give_the_known_answers(entry: dict[str, Any], gpu: Gpu) -> None:
    stream = factor_stream(int(entry["seed"]), entry["tensor"], entry["factor"])
    assert bits(gpu.normals(stream, int(entry["start"]), len(entry["float32_bits"]))) == entry["float32_bits"]


@pytest.mark.parametrize("is_kept", [False, True], ids=["virtual", "kept"])
@pytest.mark.parametrize("dtype", DType)
@pytest.mark.parametrize("known", KNOWN_FILES, ids=KNOWN_IDS)
def test_weave_gives_the_known_answers(known: KnownFile, dtype: DType, is_kept: bool, gpu: Gpu) -> None:
    entry = known.entry
    numel = int(np.prod(entry["shape"]))
    factors = Factors(int(entry["seed"]), known.tensor, entry["l"], entry["r"], entry["hidden_dim"], numel)
    h = load_backend().hidden(factors, known.w[None], entry["scale"], None)
    first, last = entry["elements"]
    if is_kept and numel * entry["r"] > 1 << 20:
        pytest.skip("a T of gigabytes is not kept here")
    made = piece(first, dtype, 1, last - first)
    gpu.weave(factors, h, [made], gpu.new_t(factors) if is_kept else None)
    assert hashlib.sha256(made.out.tobytes()).hexdigest() == entry["sha256"][dtype]


@settings(max_examples=15)
@given(
    seed=st.integers(0, 2**64 - 1),
    stream=st.integers(0, 2**64 - 1),
    start=st.one_of(st.integers(0, 5000), st.integers(0, 2**60), st.sampled_from([2**34 - 2, 2**34, 2**60 - 3])),
    count=st.integers(1, 1500),
)
def test_normals_are_the_bits_of_the_reference(seed: int, stream: int, start: int, count: int, gpu: Gpu) -> None:
    which = FactorStream(seed, stream)
    expected = streams.normals(which, start, count)
    np.testing.assert_array_equal(gpu.normals(which, start, count).view(np.uint32), expected.view(np.uint32))


@settings(max_examples=25)
@given(
    seed=st.integers(0, 2**64 - 1),
    r=st.one_of(st.integers(1, 13), st.sampled_from([16, 30])),
    start=st.one_of(st.integers(0, 3000), st.sampled_from([2**40 + 1, 2**47])),
    count=st.integers(1, 1200),
    pieces=st.lists(st.tuples(st.sampled_from(DType), st.integers(1, 6)), min_size=1, max_size=4),
    size=st.sampled_from([1.0, 1e-39, 1e-42, 1e-8, 3e4, 1e30]),
)
def test_weave_is_the_bits_of_the_reference(
    seed: int, r: int, start: int, count: int, pieces: list[tuple[DType, int]], size: float, gpu: Gpu
) -> None:
    """Mixed dtypes, w's and h's so small that W is subnormal, or so large that float16 overflows."""
    factors = Factors(seed, "t", 4, r, 8, start + count)
    h = np.random.default_rng(seed).standard_normal((sum(rows for _, rows in pieces), r)) * size
    wanted = [piece(start, dtype, rows, count) for dtype, rows in pieces]
    check_against_the_reference(gpu, factors, h.astype(np.float32), wanted)


@settings(max_examples=15)
@given(
    seed=st.integers(0, 2**64 - 1),
    r=st.integers(1, 12),
    numel=st.integers(1, 9000),
    ranges=st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=4),
    dtype=st.sampled_from(DType),
)
def test_a_t_that_fills_up_gives_the_same_bits(
    seed: int, r: int, numel: int, ranges: list[tuple[float, float]], dtype: DType, gpu: Gpu
) -> None:
    """Ranges that meet chunks which are there, are built now, or are drawn aside since little of them is wanted."""
    factors = Factors(seed, "t", 4, r, 8, numel)
    kept, h = gpu.new_t(factors), np.random.default_rng(seed).standard_normal((2, r)).astype(np.float32)
    for where, much in [*ranges, (0.0, 1.0), (0.0, 1.0)]:
        start = int(where * (numel - 1))
        count = max(1, int(much * (numel - start)))
        check_against_the_reference(gpu, factors, h, [piece(start, dtype, 2, count)], kept)
    assert kept.is_whole


def test_zeros_keep_their_signs(gpu: Gpu) -> None:
    """-0 + -0 is -0, and 0 + -0 is not: sums must not begin at 0."""
    factors = Factors(1, "t", 4, 2, 8, 4000)
    h = np.array([[0.0, 0.0], [-0.0, -0.0], [0.0, -0.0], [1e-45, 0.0]], np.float32)
    for kept in (None, gpu.new_t(factors)):
        made = piece(0, DType.F32, 4, 4000)
        check_against_the_reference(gpu, factors, h, [made], kept)
        assert {0x00000000, 0x80000000} <= set(made.out.view(np.uint32).ravel().tolist())


def test_every_r_that_is_unrolled_and_every_batch(gpu: Gpu) -> None:
    for r in range(1, kernels_cuda.FEW + 3):
        for rows in (*kernels_cuda.BATCHES, 17):
            h = np.random.default_rng(r).standard_normal((rows, r)).astype(np.float32)
            check_against_the_reference(gpu, Factors(r, "t", 4, r, 8, 50), h, [piece(1, DType.F32, rows, 44)])


def test_a_kept_t_is_read_and_not_drawn_again(gpu: Gpu) -> None:
    factors = Factors(1, "t", 4, 3, 8, 6000)
    kept, h = gpu.new_t(factors), np.ones((1, 3), np.float32)
    assert set(kept.sources) == {BUILD}
    first = piece(0, DType.F32, 1, 6000)
    gpu.weave(factors, h, [first], kept)
    assert set(kept.sources) == {READ}
    kept.planes.zero_()
    if not kernels_cuda.INTERPRETED:  # in a stream that lanes do not wait for
        torch.cuda.synchronize()
    second = piece(0, DType.F32, 1, 6000)
    gpu.weave(factors, h, [second], kept)
    assert not second.out.any()


def test_parts_that_fit_into_a_lane(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pass larger than a lane's memory, over several rows and dtypes, from a row in the middle of a group on."""
    for module in ("work", "lane"):
        monkeypatch.setattr(f"weightloom.fabric.gpu.{module}.STAGE_BYTES", 1 << 18)
    small, count = Gpu("cuda:0", 1 << 20), 60_001
    factors, h = Factors(9, "t", 4, 2, 8, 70_000), np.random.default_rng(1).standard_normal((7, 2)).astype(np.float32)
    wanted = [piece(2001, DType.F32, 3, count), piece(2001, DType.BF16, 3, count), piece(2001, DType.F32, 1, count)]
    check_against_the_reference(small, factors, h, wanted)
