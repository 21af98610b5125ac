"""The reference's arithmetic in numba: the same bits, tile by tile, at the speed of the vector units.

How it is laid out, and why (measured, see docs/performance.md): four consecutive rows of a factor use exactly r whole
Philox blocks, so work goes in *planes* of 4 KiB over GROUPS groups of four rows. For each of a group's r blocks, one
loop makes the four Philox words of all groups, one splits them for the logarithm, one does Box-Muller; then the planes
are added to the sums of each h. Each loop is simple enough for LLVM to vectorise (a single fused loop was four times
slower), and planes stay in the caches.

No float may be fused or reordered: numba without ``fastmath`` promises that, and tests/unit/fabric/test_kernels.py
looks at the machine code for fused multiply-adds. ``error_model="numpy"`` keeps division and sqrt free of branches.
All kernels live in this one file because numba's cache does not see changes in other files.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import carray, njit, types  # type: ignore[attr-defined]
from numba.core import cgutils
from numba.extending import intrinsic

from weightloom.fabric import reference, streams
from weightloom.fabric.dtypes import DType
from weightloom.fabric.factors import BUILD, DRAW, GROUPS, Factors, ResidentT, chunk_groups
from weightloom.fabric.passes import Piece
from weightloom.fabric.streams import FactorStream

__all__ = ["NAME", "READS_T", "hidden", "normals", "weave"]

NAME, READS_T = "numba", True

CHUNK = 4096  # normals per pass where a factor is read in row-major order

U64, U32, U16, I32, F32, F64 = np.uint64, np.uint32, np.uint16, np.int32, np.float32, np.float64
LOW, SHIFT32 = U64(0xFFFFFFFF), U64(32)
M0, M1, W0, W1 = (U64(x) for x in (streams.PHILOX_M0, streams.PHILOX_M1, streams.PHILOX_W0, streams.PHILOX_W1))
ROUNDS = streams.PHILOX_ROUNDS
L0, L1, L2, L3, L4, L5, L6, L7, L8 = streams.LOG_COEFFICIENTS
S0, S1, S2, S3, S4 = streams.SINPI_COEFFICIENTS
LN2, SQRT_HALF, EXPONENT_SHIFT = streams.LN2, I32(streams.SQRT_HALF_BITS), I32(23)
ZERO, HALF, ONE, MINUS_TWO = F32(0.0), F32(0.5), F32(1.0), F32(-2.0)
TWO_M31, TWO_M32 = F32(2.0**-31), F32(2.0**-32)
LOG2E, LN2_HIGH, LN2_LOW, EXP_LIMIT = reference.LOG2E, reference.LN2_HIGH, reference.LN2_LOW, reference.EXP_LIMIT
INVERSE_FACTORIALS = np.array(reference.INVERSE_FACTORIALS)

BLOCKS = 2  # Philox blocks of each group drawn before they are summed: their planes stay in the first-level cache
FORMATS = {DType.F32: 0, DType.F16: 1, DType.BF16: 2}
NOT_KEPT = (np.empty(0, np.float32),) * 3
NO_PLANES = np.empty((0, 0, 0), np.float32)

F32Array = npt.NDArray[np.float32]


def jit(function: Callable[..., Any]) -> Any:
    """``njit``; kept on disk for the next start where numba finds a folder that can be written to."""
    try:
        return njit(nogil=True, cache=True, error_model="numpy")(function)
    except RuntimeError:  # a read-only file system, and NUMBA_CACHE_DIR names no other: each start compiles
        return njit(nogil=True, error_model="numpy")(function)


def normals(stream: FactorStream, start: int, count: int) -> npt.NDArray[np.float32]:
    """Normal numbers ``start`` ... ``start + count - 1`` of a stream, float32 (count,); see ``streams.normals``."""
    out = np.empty(count, F32)
    _normals(U64(stream.seed), U64(stream.stream), U64(start), out)
    return out


def hidden(factors: Factors, w: F32Array, scale: float, pqs: tuple[F32Array, ...] | None = None) -> F32Array:
    """w (B, l) -> h (B, r) float32; see ``reference.hidden``."""
    h = np.empty((len(w), factors.r), F32)
    p, q, s = pqs or NOT_KEPT
    # A copy, so that it is aligned and writeable whatever it came from: another type would be compiled anew.
    _hidden(factors.numbers, p, q, s, np.array(w, F32), factors.hidden_dim, scale, h)
    return h


def weave(factors: Factors, h: F32Array, pieces: Sequence[Piece], kept: ResidentT | None = None) -> None:
    """h (B, r) -> the pieces' memory, B rows in all; see ``reference.weave``."""
    start, count = pieces[0].start, pieces[0].count
    addresses, formats = _places(pieces)
    if kept is None:
        size = chunk_groups(factors.r, factors.numel)
        sources = np.zeros(-(-(start + count) // (4 * size)) - start // (4 * size), np.uint8)
        _weave(factors.numbers, h, start, count, addresses, formats, size, NO_PLANES, sources)
        return
    sources, built = kept.claim(start, count), False
    try:
        _weave(factors.numbers, h, start, count, addresses, formats, kept.planes.shape[2], kept.planes, sources)
        built = True
    finally:
        kept.release(start, sources, built=built)


def _places(pieces: Sequence[Piece]) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint8]]:
    """Address and format of each row that is wanted."""
    addresses: list[int] = []
    formats: list[int] = []
    for piece in pieces:
        rows, address = len(piece.out), piece.out.__array_interface__["data"][0]
        addresses += [address] if rows == 1 else range(address, address + piece.out.nbytes, piece.out.strides[0])
        formats += [FORMATS[piece.dtype]] * rows
    return np.array(addresses, np.uint64), np.array(formats, np.uint8)


@jit
def _words(seed, stream, first, step, n, x0, x1, x2, x3):  # type: ignore[no-untyped-def]
    """Philox words of blocks first, first + step, ... into four planes (section 1).

    Words are kept in 64-bit lanes whose upper halves hold rubbish, which the 32 x 32 -> 64 bit multiplier ignores.
    """
    k0, k1 = seed & LOW, seed >> SHIFT32
    s0, s1 = stream & LOW, stream >> SHIFT32
    block = first - step
    for g in range(n):
        block += step
        a0, a1, a2, a3 = block & LOW, block >> SHIFT32, s0, s1
        for i in range(ROUNDS):
            product0 = (a0 & LOW) * M0
            product1 = (a2 & LOW) * M1
            a0 = (product1 >> SHIFT32) ^ a1 ^ ((k0 + U64(i) * W0) & LOW)
            a2 = (product0 >> SHIFT32) ^ a3 ^ ((k1 + U64(i) * W1) & LOW)
            a1, a3 = product1, product0
        x0[g], x1[g], x2[g], x3[g] = U32(a0), U32(a1), U32(a2), U32(a3)


@jit
def _split(x, n, m, e):  # type: ignore[no-untyped-def]
    """u from the words x, then u = 2^e m with m in [sqrt(1/2), sqrt(2)): the integer part of ln (section 2)."""
    bits = m.view(I32)
    for g in range(n):
        m[g] = (F32(x[g]) + HALF) * TWO_M32
    for g in range(n):
        i = bits[g]
        exponent = I32(i - SQRT_HALF) >> EXPONENT_SHIFT
        bits[g] = I32(i - I32(exponent << EXPONENT_SHIFT))
        e[g] = F32(exponent)


@jit
def _box_muller(m, e, y, n, z0, z1):  # type: ignore[no-untyped-def]
    """Two normals per lane from the split u and the words y (section 2, steps 2 to 5)."""
    for g in range(n):
        v = m[g] - ONE
        t = v * v
        p = L0 * v + L1
        p = p * v + L2
        p = p * v + L3
        p = p * v + L4
        p = p * v + L5
        p = p * v + L6
        p = p * v + L7
        p = p * v + L8
        p = (p * v) * t
        p = p - HALF * t
        radius = np.sqrt(MINUS_TWO * ((v + p) + e[g] * LN2))
        a = F32(I32(y[g])) * TWO_M31
        c = HALF - abs(a)
        s = HALF - abs(c)
        cc, ss = c * c, s * s
        cosine = ((((S0 * cc + S1) * cc + S2) * cc + S3) * cc + S4) * c
        sine = ((((S0 * ss + S1) * ss + S2) * ss + S3) * ss + S4) * s
        z0[g] = radius * cosine
        z1[g] = radius * (-sine if a < ZERO else sine)


@jit
def _scratch():  # type: ignore[no-untyped-def]
    return np.empty((4, GROUPS), U32), np.empty((2, GROUPS), F32)


@jit
def _normal_planes(seed, stream, first, step, n, x, me, z):  # type: ignore[no-untyped-def]
    """z[place, g] = the normal at a place (0 ... 3) of block first + g step, for n blocks."""
    _words(seed, stream, first, step, n, x[0], x[1], x[2], x[3])
    for pair in range(2):
        _split(x[2 * pair], n, me[0], me[1])
        _box_muller(me[0], me[1], x[2 * pair + 1], n, z[2 * pair], z[2 * pair + 1])


@jit
def _normals(seed, stream, start, out):  # type: ignore[no-untyped-def]
    x, me = _scratch()
    z = np.empty((4, GROUPS), F32)
    first, count = start // U64(4), len(out)
    skip = np.int64(start - first * U64(4))
    blocks = (skip + count + 3) // 4
    for done in range(0, blocks, GROUPS):
        n = min(GROUPS, blocks - done)
        _normal_planes(seed, stream, first + U64(done), U64(1), n, x, me, z)
        _interleave(z, n, 4 * done - skip, out)


@jit
def _interleave(planes, n, offset, out):  # type: ignore[no-untyped-def]
    """out[offset + 4 g + place] = planes[place, g], leaving away what falls outside of out."""
    p0, p1, p2, p3 = planes[0], planes[1], planes[2], planes[3]
    if offset >= 0 and offset + 4 * n <= len(out):
        whole = out[offset : offset + 4 * n]
        for g in range(n):
            whole[4 * g], whole[4 * g + 1], whole[4 * g + 2], whole[4 * g + 3] = p0[g], p1[g], p2[g], p3[g]
    else:
        for i in range(max(0, -offset), min(4 * n, len(out) - offset)):
            out[offset + i] = planes[i % 4, i // 4]


@jit
def _multiply_add(z, weight, total, n, fresh):  # type: ignore[no-untyped-def]
    """total = z * weight where it starts, total + z * weight after (0 + x is not x where x is -0)."""
    if fresh:
        for g in range(n):
            total[g] = z[g] * weight
    else:
        for g in range(n):
            total[g] = total[g] + z[g] * weight


@jit
def _multiply_add_4(z0, z1, z2, z3, w0, w1, w2, w3, total, n, fresh):  # type: ignore[no-untyped-def]
    """Four steps of ``_multiply_add`` in their order, with the sum kept in a register."""
    if fresh:
        for g in range(n):
            total[g] = ((z0[g] * w0 + z1[g] * w1) + z2[g] * w2) + z3[g] * w3
    else:
        for g in range(n):
            total[g] = (((total[g] + z0[g] * w0) + z1[g] * w1) + z2[g] * w2) + z3[g] * w3


@jit
def _add_planes(planes, chunk, at, first, count, begin, n, h, total):  # type: ignore[no-untyped-def]
    """Add normals first ... first + count - 1 of each group, which lie in planes[chunk, at ...], to its four rows."""
    r, done = len(h), 0
    while done < count:
        row, k = (first + done) // r, (first + done) % r
        run, i = min(r - k, count - done), 0
        sums = total[row]
        while i < run:
            z0 = planes[chunk, at + done + i][begin : begin + n]
            if i + 4 <= run:
                z1 = planes[chunk, at + done + i + 1][begin : begin + n]
                z2 = planes[chunk, at + done + i + 2][begin : begin + n]
                z3 = planes[chunk, at + done + i + 3][begin : begin + n]
                w0, w1, w2, w3 = h[k + i], h[k + i + 1], h[k + i + 2], h[k + i + 3]
                _multiply_add_4(z0, z1, z2, z3, w0, w1, w2, w3, sums, n, k + i == 0)
                i += 4
            else:
                _multiply_add(z0, h[k + i], sums, n, k + i == 0)
                i += 1
        done += run


@jit
def _draw_planes(seed, stream, group, r, blocks, n, x, me, planes, chunk, at):  # type: ignore[no-untyped-def]
    """Blocks blocks[0] ... blocks[1] - 1 of n groups from ``group`` on, to planes[chunk, at ...]."""
    for j in range(blocks[0], blocks[1]):
        i = at + 4 * (j - blocks[0])
        first = group * U64(r) + U64(j)
        _normal_planes(seed, stream, first, U64(r), n, x, me, planes[chunk, i : i + 4])


@jit
def _weave(numbers, h, start, count, addresses, formats, size, kept, sources):  # type: ignore[no-untyped-def]
    """The pass: elements start ... start + count - 1 of each W_b, each normal made (or read) once for all b.

    kept (chunks, 4 r, size): a resident T. sources: for each chunk that the range meets, DRAW, BUILD or READ.
    """
    x, me = _scratch()
    seed, stream = numbers[0], numbers[4]
    batch, r = h.shape
    z = np.empty((1, 4 * min(r, BLOCKS), GROUPS), F32)
    halves = np.empty((4, GROUPS), U16)
    first, last = start // 4, (start + count + 3) // 4
    total = np.empty((batch, 4, min(GROUPS, size, last - first)), F32)
    group = first
    while group < last:
        chunk = group // size
        end = min(last, (chunk + 1) * size)
        source = sources[chunk - first // size]
        if source == BUILD:
            _draw_planes(seed, stream, U64(chunk * size), r, (0, r), size, x, me, kept, chunk, 0)
        n = min(GROUPS, end - group)
        for j in range(0, r, BLOCKS):
            blocks = (j, min(r, j + BLOCKS))
            width = 4 * (blocks[1] - j)
            if source == DRAW:
                _draw_planes(seed, stream, U64(group), r, blocks, n, x, me, z, 0, 0)
                for b in range(batch):
                    _add_planes(z, 0, 0, 4 * j, width, 0, n, h[b], total[b])
            else:
                for b in range(batch):
                    _add_planes(kept, chunk, 4 * j, 4 * j, width, group - chunk * size, n, h[b], total[b])
        for b in range(batch):
            _emit(total[b], n, 4 * group - start, formats[b], addresses[b], count, halves)
        group += n


@jit
def _emit(total, n, offset, form, address, count, halves):  # type: ignore[no-untyped-def]
    """Sums to elements of the dtype ``form`` at offset ... of the row of ``count`` elements at ``address``."""
    if form == 0:
        _interleave(total, n, offset, carray(_pointer(address), count, F32))
        return
    for place in range(4):
        if form == 1:
            _to_float16(total[place], n, halves[place])
        else:
            _to_bfloat16(total[place].view(U32), n, halves[place])
    _interleave(halves, n, offset, carray(_pointer(address), count, U16))


@intrinsic
def _pointer(context, address):  # type: ignore[no-untyped-def]
    """An address as a pointer, so that one pass can write to the memory of many tiles."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        return builder.inttoptr(arguments[0], cgutils.voidptr_t)

    return types.voidptr(address), generate


@jit
def _to_bfloat16(bits, n, out):  # type: ignore[no-untyped-def]
    """float32 bits -> bfloat16 bits, to nearest even (no NaN comes here: specs keep W finite)."""
    for g in range(n):
        out[g] = U16((bits[g] + U32(0x7FFF) + ((bits[g] >> U32(16)) & U32(1))) >> U32(16))


@jit
def _to_float16(values, n, out):  # type: ignore[no-untyped-def]
    """float32 -> float16 bits, to nearest even, without a branch.

    From 2^-14 up the exponent is rebiased and the mantissa rounded in integers; below that, adding 0.5 to |v| makes
    the float adder itself round at float16's subnormal step 2^-24; from 65520 up the result is infinity.
    """
    bits = values.view(U32)
    shifted = np.empty(GROUPS, F32)
    for g in range(n):
        shifted[g] = abs(values[g]) + HALF
    subnormal = shifted.view(U32)
    for g in range(n):
        sign = (bits[g] >> U32(16)) & U32(0x8000)
        magnitude = bits[g] & U32(0x7FFFFFFF)
        half = (magnitude - U32(0x38000000) + U32(0xFFF) + ((magnitude >> U32(13)) & U32(1))) >> U32(13)
        half = subnormal[g] - U32(0x3F000000) if magnitude < U32(0x38800000) else half
        out[g] = U16(sign | min(half, U32(0x7C00)))


@jit
def _hidden(numbers, p, q, s, w, hidden_dim, scale, h):  # type: ignore[no-untyped-def]
    seed, q_stream, s_stream = numbers[0], numbers[2], numbers[3]
    batch, r = h.shape
    a = _project_w(seed, numbers[1], p, w, r)
    total = np.zeros((batch, r), F64)
    step = max(1, CHUNK // r)
    q_scratch, s_scratch = np.empty(step * r, F32), np.empty(step * r, F32)
    for first in range(0, hidden_dim, step):
        n = min(step, hidden_dim - first)
        q_rows = _rows(seed, q_stream, q, first * r, n * r, q_scratch)
        s_rows = _rows(seed, s_stream, s, first * r, n * r, s_scratch)
        for b in range(batch):
            for m in range(n):
                _add_neuron(a[b], q_rows[m * r : (m + 1) * r], s_rows[m * r : (m + 1) * r], total[b])
    for b in range(batch):
        for k in range(r):
            h[b, k] = F32(total[b, k] * scale)


@jit
def _rows(seed, stream, kept, start, count, scratch):  # type: ignore[no-untyped-def]
    """Numbers start ... start + count - 1 of a factor: those that are kept, or drawn into the scratch memory."""
    if len(kept) > 0:
        return kept[start : start + count]
    _normals(seed, stream, U64(start), scratch[:count])
    return scratch[:count]


@jit
def _project_w(seed, stream, kept, w, r):  # type: ignore[no-untyped-def]
    """a = w P in float64, i from 0 upward: (B, l) -> (B, r) (section 4, step 1)."""
    batch, length = w.shape
    a = np.zeros((batch, r), F64)
    step = max(1, CHUNK // r)
    scratch = np.empty(step * r, F32)
    for first in range(0, length, step):
        n = min(step, length - first)
        p = _rows(seed, stream, kept, first * r, n * r, scratch)
        for b in range(batch):
            for i in range(n):
                weight = F64(w[b, first + i])
                for j in range(r):
                    a[b, j] += weight * F64(p[i * r + j])
    return a


@jit
def _add_neuron(a, q, s, total):  # type: ignore[no-untyped-def]
    """total += sigmoid(a . q) s for one of the hidden_dim neurons (section 4, steps 2 to 4)."""
    b = 0.0
    for j in range(len(a)):
        b += a[j] * F64(q[j])
    sigma = 1.0 / (1.0 + _exp(-b))
    for k in range(len(total)):
        total[k] += sigma * F64(s[k])


@jit
def _exp(x):  # type: ignore[no-untyped-def]
    x = min(max(x, -EXP_LIMIT), EXP_LIMIT)
    k = np.rint(x * LOG2E)
    q = (x - k * LN2_HIGH) - k * LN2_LOW
    p = INVERSE_FACTORIALS[0]
    for n in range(1, len(INVERSE_FACTORIALS)):
        p = p * q + INVERSE_FACTORIALS[n]
    return math.ldexp(p, int(k))
