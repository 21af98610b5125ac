"""Factor streams v1 and the last step W = T h in Triton: the reference's bits, at the speed of a GPU.

How it is laid out, and why (docs/performance.md counts the instructions): four consecutive rows of a factor use exactly
r whole Philox blocks, so a lane makes *groups* of four rows. Nothing but h is read and nothing but W is written where T
is virtual; a T that is kept lies in 4 r planes, number n of every group side by side, so that lanes read side by side.

Every float step is rounded on its own: kernels are launched with ``enable_fp_fusion=False``, and ``tl.fma`` stands only
where its product is exact. Where a step is written in another way than the contract writes it, a comment says why the
bits are the same. Sums start at -0.0, since -0.0 + x is x for every x. Triton's unary minus is 0 - x, which loses the
sign of zero, so signs are flipped in integers.

What is compiled is bounded: scalars are not specialised, dtypes are a branch, w's go in batches of BATCHES. All of it
is launched when a device is opened. With TRITON_INTERPRET=1 the same code runs on the CPU, in numpy.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from triton.runtime.interpreter import InterpretedFunction

from weightloom.fabric import streams
from weightloom.fabric.dtypes import DType

__all__ = ["BATCHES", "FEW", "FORMS", "INTERPRETED", "draw", "groups_in", "read", "rows_of", "weave"]

FEW = 7  # up to this r the loop over a group's blocks is unrolled, and no number is drawn twice
BATCHES = (1, 4, 16)  # w's in one launch; fewer are padded, more take several launches
FORMS = {DType.F32: 0, DType.F16: 1, DType.BF16: 2}

M0, M1 = tl.constexpr(streams.PHILOX_M0), tl.constexpr(streams.PHILOX_M1)
W0, W1 = tl.constexpr(streams.PHILOX_W0), tl.constexpr(streams.PHILOX_W1)
ROUNDS = tl.constexpr(streams.PHILOX_ROUNDS)
L0, L1, L2, L3, L4, L5, L6, L7, L8 = (tl.constexpr(float(x)) for x in streams.LOG_COEFFICIENTS)
S0, S1, S2, S3, S4 = (tl.constexpr(float(x)) for x in streams.SINPI_COEFFICIENTS)
SQRT_HALF = tl.constexpr(streams.SQRT_HALF_BITS)
SQRT_HALF_32 = tl.constexpr(streams.SQRT_HALF_BITS + (32 << 23))  # the bits of sqrt(1/2) x 2^32
LN2_23 = tl.constexpr(float(streams.LN2) * 2.0**-23)
MANTISSA, SIGN = tl.constexpr(0x007FFFFF), tl.constexpr(0x80000000)
MINUS_TWO_M31 = tl.constexpr(-(2.0**-31))

# A value that is 1 or divisible by 16 would otherwise be compiled anew.
NUMBERS = ["form", "batch", "seed0", "seed1", "stream0", "stream1", "first", "r", "groups", "total"]


@triton.jit
def _words(block, lanes, s0, s1, k0, k1):  # type: ignore[no-untyped-def]
    """Philox words of blocks block + lanes, a 64-bit scalar and a 32-bit vector (section 1)."""
    counter = (block + lanes).to(tl.uint64)
    x0, x1 = counter.to(tl.uint32), (counter >> 32).to(tl.uint32)
    x2, x3 = tl.zeros_like(x0) + s0, tl.zeros_like(x0) + s1
    for _ in tl.static_range(ROUNDS):
        product0, product1 = x0.to(tl.uint64) * M0, x2.to(tl.uint64) * M1
        x0, x1 = (product1 >> 32).to(tl.uint32) ^ x1 ^ k0, product1.to(tl.uint32)
        x2, x3 = (product0 >> 32).to(tl.uint32) ^ x3 ^ k1, product0.to(tl.uint32)
        k0, k1 = (k0.to(tl.uint64) + W0).to(tl.uint32), (k1.to(tl.uint64) + W1).to(tl.uint32)
    return x0, x1, x2, x3


@triton.jit
def _sinpi(v):  # type: ignore[no-untyped-def]
    square = v * v
    return ((((square * S0 + S1) * square + S2) * square + S3) * square + S4) * v


@triton.jit
def _box_muller(x, y):  # type: ignore[no-untyped-def]
    """Two normals from two words (section 2)."""
    # u = v 2^-32 is not formed: a power of two changes the exponent alone, and SQRT_HALF_32 takes that into account.
    v = x.to(tl.float32) + 0.5
    t = v.to(tl.int32, bitcast=True) - SQRT_HALF_32
    mantissa = t & MANTISSA
    m = (mantissa + SQRT_HALF).to(tl.float32, bitcast=True) - 1.0
    e_ln2 = (t - mantissa).to(tl.float32) * LN2_23  # t - mantissa = e 2^23: both scalings are exact
    square = m * m
    p = m * L0 + L1
    p = p * m + L2
    p = p * m + L3
    p = p * m + L4
    p = p * m + L5
    p = p * m + L6
    p = p * m + L7
    p = p * m + L8
    p = tl.fma(square, -0.5, (p * m) * square)  # half of a number is exact
    radius = tl.sqrt_rn(-2.0 * ((m + p) + e_ln2))
    # |a| = |y| 2^-31 is exact, and its sign is y's: y = 0 has none.
    c = tl.fma(tl.abs(y.to(tl.int32, bitcast=True).to(tl.float32)), MINUS_TWO_M31, 0.5)
    sine = _sinpi(0.5 - tl.abs(c)).to(tl.uint32, bitcast=True) ^ (y & SIGN)
    return radius * _sinpi(c), radius * sine.to(tl.float32, bitcast=True)


@triton.jit
def _normals(block, lanes, stream0, stream1, seed0, seed1):  # type: ignore[no-untyped-def]
    """The four normals of each of the blocks block + lanes."""
    k0, k1 = seed0.to(tl.uint32), seed1.to(tl.uint32)
    x0, x1, x2, x3 = _words(block, lanes, stream0.to(tl.uint32), stream1.to(tl.uint32), k0, k1)
    z0, z1 = _box_muller(x0, x1)
    z2, z3 = _box_muller(x2, x3)
    return z0, z1, z2, z3


@triton.jit
def _nothing(B: tl.constexpr, GROUPS: tl.constexpr):  # type: ignore[no-untyped-def]
    """-0.0 (B, GROUPS), by its bits: the constant -0.0 is one that compilers may take for 0.0."""
    return (tl.zeros((B, GROUPS), tl.uint32) + SIGN).to(tl.float32, bitcast=True)


@triton.jit
def _weights(h, k, B: tl.constexpr):  # type: ignore[no-untyped-def]
    """h_k of all w's (B, 1); h lies in memory as (r, B)."""
    return tl.load(h + k * B + tl.arange(0, B))[:, None]


@triton.jit
def _store(out32, out16, form, batch, a0, a1, a2, a3, B: tl.constexpr, GROUPS: tl.constexpr):  # type: ignore[no-untyped-def]
    """Sums of four rows (B, GROUPS) each -> elements of the dtype ``form``, row by row of the launch's (batch, …)."""
    v = tl.interleave(tl.interleave(a0, a2), tl.interleave(a1, a3))
    row = tl.arange(0, B)[:, None]
    at = row * (tl.num_programs(0) * (4 * GROUPS)) + tl.program_id(0) * (4 * GROUPS) + tl.arange(0, 4 * GROUPS)[None, :]
    wanted = (row < batch) & (at >= 0)
    if form == 0:
        tl.store(out32 + at, v, mask=wanted)
    elif form == 1:
        tl.store(out16 + at, v.to(tl.float16).to(tl.int16, bitcast=True), mask=wanted)
    else:  # to nearest even; no NaN comes here, specs keep W finite
        bits = v.to(tl.uint32, bitcast=True)
        rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
        tl.store(out16 + at, rounded.to(tl.uint16).to(tl.int16, bitcast=True), mask=wanted)


@triton.jit
def _add(a0, a1, a2, a3, z, n: tl.constexpr, h, R: tl.constexpr, B: tl.constexpr):  # type: ignore[no-untyped-def]
    """Number n of the groups' 4 R, to the row where it belongs."""
    product = z[None, :] * _weights(h, n % R, B)
    if n < R:
        a0 += product
    elif n < 2 * R:
        a1 += product
    elif n < 3 * R:
        a2 += product
    else:
        a3 += product
    return a0, a1, a2, a3


@triton.jit(do_not_specialize=NUMBERS)
def _weave_few(  # type: ignore[no-untyped-def]
    out32, out16, form, batch, h, seed0: tl.uint32, seed1: tl.uint32, stream0: tl.uint32, stream1: tl.uint32,
    first: tl.int64, R: tl.constexpr, B: tl.constexpr, GROUPS: tl.constexpr,
):  # fmt: skip
    """Groups first, first + 1, ... of a virtual T of R columns."""
    block = (first + tl.program_id(0) * GROUPS) * R
    lanes = tl.arange(0, GROUPS) * R
    a0, a1, a2, a3 = _nothing(B, GROUPS), _nothing(B, GROUPS), _nothing(B, GROUPS), _nothing(B, GROUPS)
    for j in tl.static_range(R):
        z0, z1, z2, z3 = _normals(block + j, lanes, stream0, stream1, seed0, seed1)
        a0, a1, a2, a3 = _add(a0, a1, a2, a3, z0, 4 * j, h, R, B)
        a0, a1, a2, a3 = _add(a0, a1, a2, a3, z1, 4 * j + 1, h, R, B)
        a0, a1, a2, a3 = _add(a0, a1, a2, a3, z2, 4 * j + 2, h, R, B)
        a0, a1, a2, a3 = _add(a0, a1, a2, a3, z3, 4 * j + 3, h, R, B)
    _store(out32, out16, form, batch, a0, a1, a2, a3, B, GROUPS)


@triton.jit
def _add_if_in_row(a, z, k, h, r, ALIGNED: tl.constexpr, B: tl.constexpr):  # type: ignore[no-untyped-def]
    if ALIGNED:
        a += z[None, :] * _weights(h, k, B)
    elif (k >= 0) & (k < r):
        a += z[None, :] * _weights(h, k, B)
    return a


@triton.jit
def _row(  # type: ignore[no-untyped-def]
    i: tl.constexpr, block, lanes, h, seed0, seed1, stream0, stream1, r,
    ALIGNED: tl.constexpr, B: tl.constexpr, GROUPS: tl.constexpr,
):  # fmt: skip
    """Row i of each group; where r is no multiple of 4, a block that two rows share is drawn for both."""
    a = _nothing(B, GROUPS)
    for j in range(i * r // 4, (i * r + r + 3) // 4):
        z0, z1, z2, z3 = _normals(block + j, lanes, stream0, stream1, seed0, seed1)
        k = 4 * j - i * r
        a = _add_if_in_row(a, z0, k, h, r, ALIGNED, B)
        a = _add_if_in_row(a, z1, k + 1, h, r, ALIGNED, B)
        a = _add_if_in_row(a, z2, k + 2, h, r, ALIGNED, B)
        a = _add_if_in_row(a, z3, k + 3, h, r, ALIGNED, B)
    return a


@triton.jit(do_not_specialize=NUMBERS)
def _weave_many(  # type: ignore[no-untyped-def]
    out32, out16, form, batch, h, seed0: tl.uint32, seed1: tl.uint32, stream0: tl.uint32, stream1: tl.uint32,
    first: tl.int64, r: tl.int32, ALIGNED: tl.constexpr, B: tl.constexpr, GROUPS: tl.constexpr,
):  # fmt: skip
    """Groups first, first + 1, ... of a virtual T of r columns."""
    block = (first + tl.program_id(0) * GROUPS) * r
    lanes = tl.arange(0, GROUPS) * r
    a0 = _row(0, block, lanes, h, seed0, seed1, stream0, stream1, r, ALIGNED, B, GROUPS)
    a1 = _row(1, block, lanes, h, seed0, seed1, stream0, stream1, r, ALIGNED, B, GROUPS)
    a2 = _row(2, block, lanes, h, seed0, seed1, stream0, stream1, r, ALIGNED, B, GROUPS)
    a3 = _row(3, block, lanes, h, seed0, seed1, stream0, stream1, r, ALIGNED, B, GROUPS)
    _store(out32, out16, form, batch, a0, a1, a2, a3, B, GROUPS)


@triton.jit(do_not_specialize=NUMBERS, do_not_specialize_on_alignment=["planes"])
def _draw(  # type: ignore[no-untyped-def]
    planes, seed0: tl.uint32, seed1: tl.uint32, stream0: tl.uint32, stream1: tl.uint32,
    first: tl.int64, r: tl.int32, groups: tl.int64, total: tl.int64, GROUPS: tl.constexpr,
):  # fmt: skip
    """Numbers of groups first, first + 1, ... to the beginning of each of the 4 r planes, which lie ``total`` apart.

    A plane may begin anywhere, so that stores are of single numbers in any case; side by side they are as fast.
    """
    done = tl.program_id(0).to(tl.int64) * GROUPS
    lane = tl.arange(0, GROUPS)
    mask = done + lane < groups
    place = planes + done + lane
    for j in range(r):
        z0, z1, z2, z3 = _normals((first + done) * r + j, lane * r, stream0, stream1, seed0, seed1)
        tl.store(place, z0, mask=mask)
        tl.store(place + total, z1, mask=mask)
        tl.store(place + 2 * total, z2, mask=mask)
        tl.store(place + 3 * total, z3, mask=mask)
        place += 4 * total


@triton.jit(do_not_specialize=NUMBERS)
def _weave_kept(  # type: ignore[no-untyped-def]
    out32, out16, form, batch, h, planes, first: tl.int64, r: tl.int32, total: tl.int64,
    B: tl.constexpr, GROUPS: tl.constexpr,
):  # fmt: skip
    """Groups first, first + 1, ... of a T whose planes hold ``total`` groups each."""
    group = first + tl.program_id(0) * GROUPS + tl.arange(0, GROUPS)
    mask = group < total
    a0, a1, a2, a3 = _nothing(B, GROUPS), _nothing(B, GROUPS), _nothing(B, GROUPS), _nothing(B, GROUPS)
    row, place = r * total, planes + group
    for k in range(r):
        weights = _weights(h, k, B)
        a0 += tl.load(place, mask=mask, other=0.0)[None, :] * weights
        a1 += tl.load(place + row, mask=mask, other=0.0)[None, :] * weights
        a2 += tl.load(place + 2 * row, mask=mask, other=0.0)[None, :] * weights
        a3 += tl.load(place + 3 * row, mask=mask, other=0.0)[None, :] * weights
        place += total
    _store(out32, out16, form, batch, a0, a1, a2, a3, B, GROUPS)


# Where Triton interprets, memory is the CPU's, and a step takes as long for many lanes as for few.
INTERPRETED = isinstance(_draw, InterpretedFunction)
GROUPS_OF = {1: 16384, 4: 4096, 16: 1024} if INTERPRETED else {1: 256, 4: 128, 16: 128}  # of a program of four warps


def weave(out: Any, dtype: DType, h: Any, batch: int, t: streams.FactorStream, first: int, groups: int, r: int) -> None:
    """Elements 4 first ... 4 (first + groups) - 1 of ``batch`` W's over a virtual T, drawn once for all of them.

    out: uint8, memory for ``rows_of`` elements in each of ``batch`` rows. h: float32 (r, B), B of BATCHES, at least
    ``batch``.
    """
    b = h.shape[1]
    many = {"ALIGNED": r % 4 == 0} if r > FEW else {}
    kernel, last = (_weave_many, {"r": r}) if r > FEW else (_weave_few, {"R": r})
    kernel[_grid(b, groups)](
        *_views(out), FORMS[dtype], batch, h, *_halves(t), first, **last, **many, B=b, GROUPS=GROUPS_OF[b],
        enable_fp_fusion=False,
    )  # fmt: skip


def read(out: Any, dtype: DType, h: Any, batch: int, planes: Any, first: int, groups: int) -> None:
    """``weave`` over a T that is kept. planes: float32 (4 r, total)."""
    b = h.shape[1]
    _weave_kept[_grid(b, groups)](
        *_views(out), FORMS[dtype], batch, h, planes, first, h.shape[0], planes.shape[1], B=b, GROUPS=GROUPS_OF[b],
        enable_fp_fusion=False,
    )  # fmt: skip


def draw(planes: Any, t: streams.FactorStream, first: int, groups: int) -> None:
    """Groups first ... first + groups - 1 of a factor to planes[:, :groups]; planes: float32 (4 r, groups or more)."""
    _draw[_grid(1, groups)](
        planes, *_halves(t), first, planes.shape[0] // 4, groups, planes.stride(0), GROUPS=GROUPS_OF[1],
        enable_fp_fusion=False,
    )  # fmt: skip


def rows_of(b: int, groups: int) -> int:
    """Elements that one row of a launch takes, padded to whole programs."""
    return 4 * GROUPS_OF[b] * _grid(b, groups)[0]


def groups_in(b: int, row_bytes: int, itemsize: int) -> int:
    """The most groups of a launch whose rows have ``row_bytes``."""
    return row_bytes // (4 * itemsize) // GROUPS_OF[b] * GROUPS_OF[b]


def _grid(b: int, groups: int) -> tuple[int]:
    return (-(-groups // GROUPS_OF[b]),)


def _halves(t: streams.FactorStream) -> tuple[int, int, int, int]:
    low = 0xFFFFFFFF
    return t.seed & low, t.seed >> 32, t.stream & low, t.stream >> 32


def _views(out: Any) -> tuple[Any, Any]:
    return out.view(torch.float32), out.view(torch.int16)
