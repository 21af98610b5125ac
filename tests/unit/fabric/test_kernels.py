"""w -> h -> W: both backends give the known answers and each other's bits."""

from __future__ import annotations

import hashlib
import os
import re
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.vectors import KNOWN_FILES, KNOWN_IDS, VECTORS, KnownFile, bits, floats
from weightloom.fabric import Backend, DType, kernels_cpu, reference
from weightloom.fabric.dtypes import encode
from weightloom.fabric.factors import BUILD, READ, Factors, ResidentT
from weightloom.fabric.passes import Piece


def factors_of(known: dict[str, Any]) -> Factors:
    numel = int(np.prod(known.get("shape", [1])))
    return Factors(int(known["seed"]), known["tensor"], known["l"], known["r"], known["hidden_dim"], numel)


def piece(start: int, dtype: DType, out: Any) -> Piece:
    return Piece(None, 0, start, dtype, out)  # type: ignore[arg-type]


def some_factors(count: int, r: int, seed: int = 5) -> Factors:
    return Factors(seed, "t", 4, r, 8, count)


@pytest.mark.parametrize("entry", VECTORS["hidden"])
def test_hidden_gives_the_known_answers(entry: dict[str, Any], backend: Backend) -> None:
    w = floats(entry["w_bits"])[None]
    h = backend.hidden(factors_of(entry | {"l": w.shape[1]}), w, entry["scale"], None)
    assert bits(h[0]) == entry["h_bits"]


@pytest.mark.parametrize("dtype", DType)
@pytest.mark.parametrize("known", KNOWN_FILES, ids=KNOWN_IDS)
def test_weave_gives_the_known_answers(known: KnownFile, dtype: DType, backend: Backend) -> None:
    entry = known.entry
    factors, (first, last) = factors_of(entry), entry["elements"]
    h = backend.hidden(factors, known.w[None], entry["scale"], None)
    out = np.empty((1, last - first), dtype.storage)
    backend.weave(factors, h, [piece(first, dtype, out)], None)
    assert hashlib.sha256(out.tobytes()).hexdigest() == entry["sha256"][dtype]
    if dtype is DType.F32:
        assert bits(out[0, : len(entry["first_bits"])]) == entry["first_bits"]


@given(
    seed=st.integers(0, 2**64 - 1),
    l=st.integers(1, 40),
    r=st.integers(1, 20),
    hidden_dim=st.integers(1, 300),
    batch=st.integers(1, 4),
    scale=st.floats(-1e3, 1e3),
    size=st.sampled_from([1e-3, 1.0, 1e3, 1e30]),
)
def test_numba_finds_the_h_of_the_reference(
    seed: int,
    l: int,
    r: int,
    hidden_dim: int,
    batch: int,
    scale: float,
    size: float,
) -> None:
    w = (np.random.default_rng(seed).standard_normal((batch, l)) * size).astype(np.float32)
    factors = Factors(seed, "t", l, r, hidden_dim, 1)
    kept = tuple(
        kernels_cpu.normals(stream, 0, size)
        for stream, size in zip((factors.p, factors.q, factors.s), factors.pqs_sizes, strict=True)
    )
    expected = reference.hidden(factors, w, scale)
    for made in (
        kernels_cpu.hidden(factors, w, scale),
        kernels_cpu.hidden(factors, w, scale, kept),
        reference.hidden(factors, w, scale, kept),  # type: ignore[arg-type]
    ):
        np.testing.assert_array_equal(made.view(np.uint32), expected.view(np.uint32))


@given(
    seed=st.integers(0, 2**64 - 1),
    r=st.integers(1, 70),
    batch=st.integers(1, 5),
    start=st.one_of(st.integers(0, 9000), st.integers(0, 2**48)),
    count=st.integers(1, 5000),
    dtype=st.sampled_from(DType),
)
def test_numba_weaves_the_bits_of_the_reference(
    seed: int, r: int, batch: int, start: int, count: int, dtype: DType
) -> None:
    h = np.random.default_rng(seed).standard_normal((batch, r)).astype(np.float32)
    factors = some_factors(start + count, r, seed)
    made, expected = (np.empty((batch, count), dtype.storage) for _ in range(2))
    kernels_cpu.weave(factors, h, [piece(start, dtype, made)])
    reference.weave(factors, h, [piece(start, dtype, expected)])
    np.testing.assert_array_equal(made.view(np.uint8), expected.view(np.uint8))


@given(
    r=st.integers(1, 70),
    numel=st.integers(1, 30_000),
    ranges=st.lists(st.tuples(st.integers(0, 29_999), st.integers(1, 9000)), min_size=1, max_size=5),
    dtypes=st.lists(st.sampled_from(DType), min_size=1, max_size=4),
)
def test_one_pass_for_many_over_a_resident_t_gives_the_bits_of_the_reference(
    r: int, numel: int, ranges: list[tuple[int, int]], dtypes: list[DType]
) -> None:
    """The first ranges build chunks of T, later ones read them; each dtype goes to memory of its own."""
    factors = some_factors(numel, r)
    kept, h = ResidentT(factors), np.random.default_rng(r).standard_normal((len(dtypes), r)).astype(np.float32)
    for first, length in [*ranges, (0, numel), *ranges]:
        start = min(first, numel - 1)
        count = min(length, numel - start)
        made, expected = ([np.empty((1, count), dtype.storage) for dtype in dtypes] for _ in range(2))
        kernels_cpu.weave(factors, h, [piece(start, *one) for one in zip(dtypes, made, strict=True)], kept)
        reference.weave(factors, h, [piece(start, *one) for one in zip(dtypes, expected, strict=True)])
        for one, other in zip(made, expected, strict=True):
            np.testing.assert_array_equal(one.view(np.uint8), other.view(np.uint8))
    assert kept.is_whole
    assert all(source in (BUILD, READ) for source in kept.sources), "no claim is left behind"


@pytest.mark.parametrize("dtype", DType)
def test_very_many_small_matrices_take_little_memory(dtype: DType) -> None:
    """A batch of 100,000 W's of five elements: scratch memory goes with what is made."""
    h = np.random.default_rng(3).standard_normal((100_000, 2)).astype(np.float32)
    made, expected = (np.empty((100_000, 5), dtype.storage) for _ in range(2))
    factors = some_factors(8, 2)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    kernels_cpu.weave(factors, h, [piece(3, dtype, made)])
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10  # KiB
    reference.weave(factors, h[:50], [piece(3, dtype, expected[:50])])
    np.testing.assert_array_equal(made[:50].view(np.uint8), expected[:50].view(np.uint8))


def test_a_factor_of_chunks_larger_than_one_pass_is_summed_in_order() -> None:
    w = np.random.default_rng(0).standard_normal((2, 3000)).astype(np.float32)
    factors = Factors(9, "t", 3000, 7, 5000, 1)
    np.testing.assert_array_equal(kernels_cpu.hidden(factors, w, 0.5), reference.hidden(factors, w, 0.5))


def to_float16(row: Any) -> Any:
    out = np.empty(kernels_cpu.GROUPS, np.uint16)
    kernels_cpu._to_float16(row, kernels_cpu.GROUPS, out)
    return out


def to_bfloat16(row: Any) -> Any:
    out = np.empty(kernels_cpu.GROUPS, np.uint16)
    kernels_cpu._to_bfloat16(row.view(np.uint32), kernels_cpu.GROUPS, out)
    return out


@pytest.mark.parametrize("dtype", [DType.F16, DType.BF16])
def test_16_bit_rounding_is_to_nearest_even_everywhere(dtype: DType) -> None:
    """Values round each half-way point of the small dtype, its subnormals and its largest numbers."""
    halves = np.arange(0, 0x7C00, dtype=np.uint16).view(np.float16).astype(np.float32)
    near = np.concatenate([np.nextafter(halves, np.float32(np.inf)), np.nextafter(halves, np.float32(-np.inf)), halves])
    between = (halves[:-1] + halves[1:]) / 2
    edge = np.array([65504, 65519.996, 65520, 65536, 1e30, 3.4e38, 2**-25, 2**-26, 1e-45], np.float32)
    values = np.concatenate([near, between, edge])
    values = np.concatenate([values, -values])
    values = np.resize(values, (len(values) // kernels_cpu.GROUPS + 1, kernels_cpu.GROUPS))
    expected = np.empty(values.shape, np.uint16)
    encode(values, dtype, expected)
    convert = to_float16 if dtype is DType.F16 else to_bfloat16
    for row, wanted in zip(values, expected, strict=True):
        np.testing.assert_array_equal(convert(row), wanted)


def test_bfloat16_rounds_like_an_independent_library() -> None:
    torch = pytest.importorskip("torch", reason="torch rounds bfloat16 independently of us")
    values = np.random.default_rng(1).integers(0, 0x7F7FFFFF, 200_000, dtype=np.uint32).view(np.float32)
    made = np.empty(values.shape, np.uint16)
    encode(values, DType.BF16, made)
    expected = torch.from_numpy(values).to(torch.bfloat16).view(torch.uint16).numpy()
    np.testing.assert_array_equal(made, expected)


COMPILE_AND_PRINT = """
import numpy as np
from weightloom.fabric import DType, kernels_cpu
from weightloom.fabric.factors import Factors
from weightloom.fabric.passes import Piece
factors = Factors(1, "t", 4, 2, 8, 64)
kernels_cpu.weave(factors, np.ones((1, 2), np.float32), [Piece(None, 0, 0, DType.F32, np.empty((1, 64), np.float32))])
kernels_cpu.hidden(factors, np.ones((1, 4), np.float32), 1.0)
for kernel in kernels_cpu._weave, kernels_cpu._hidden:
    print(*kernel.inspect_asm().values())
"""


def test_the_compiled_kernels_hold_no_fused_multiply_add(tmp_path: Path) -> None:
    """LLVM fuses only where it is allowed to; a fused step would round once where the contract rounds twice."""
    fresh = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}  # numba shows no code that came from its cache
    command = [sys.executable, "-c", COMPILE_AND_PRINT]
    code = subprocess.run(command, env=fresh, capture_output=True, text=True, check=True).stdout
    assert "sqrt" in code
    assert not re.search(r"\bv?fn?m(add|sub)\w*\s", code)


def test_the_kernels_work_where_nothing_can_be_kept_on_disk() -> None:
    """numba refuses to be told to keep what it has no folder for, as in a container with a read-only file system."""
    program = "from weightloom.fabric.kernels_cpu import normals; from weightloom.fabric.streams import FactorStream; "
    program += "print(normals(FactorStream(1, 2), 0, 3).tobytes().hex())"
    shown = set()
    for more in ({"NUMBA_CACHE_LOCATOR_CLASSES": "IPythonCacheLocator"}, {}):
        command, environment = [sys.executable, "-c", program], os.environ | more
        shown.add(subprocess.run(command, env=environment, capture_output=True, check=True).stdout)
    assert len(shown) == 1
