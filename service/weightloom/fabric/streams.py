"""Factor streams version 1 (``philox-normal-v1``): the plain numpy reference.

A seed and a tensor's name determine every bit of its frozen factors. This module says how, in the clearest numpy that
gives the right bits; ``kernels_cpu`` gives the same bits fast. Section numbers below are those of the numeric contract
(docs/factor-streams.md). "float32 step" there means that each +, -, x and sqrt is rounded on its own, which numpy's
float32 ufuncs do.

Sources: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (Philox4x32-10); Box and Muller, 1958.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

__all__ = ["GENERATOR", "FactorStream", "factor_stream", "normals", "philox4x32_10"]

GENERATOR = "philox-normal-v1"

U32 = npt.NDArray[np.uint32]
F32 = npt.NDArray[np.float32]

PHILOX_M0, PHILOX_M1 = 0xD2511F53, 0xCD9E8D57
PHILOX_W0, PHILOX_W1 = 0x9E3779B9, 0xBB67AE85
PHILOX_ROUNDS = 10


def _floats(bits: str) -> list[np.float32]:
    return [np.uint32(int(word, 16)).view(np.float32) for word in bits.split()]


# Minimax coefficients, as float32 bit patterns so that no decimal parser can move them.
LOG_COEFFICIENTS = _floats("3d9021bb bdebd1b8 3def251a bdfe5d4f 3e11e9bf be2aae50 3e4cceac be7ffffc 3eaaaaaa")
SINPI_COEFFICIENTS = _floats("3d9ed7fb bf192665 40233458 c0a55de1 40490fdb")
(LN2,) = _floats("3f317218")
SQRT_HALF_BITS = 0x3F3504F3


@dataclass(frozen=True)
class FactorStream:
    """One random stream: the 64-bit ``seed`` keys Philox, the 64-bit ``stream`` is the upper half of its counter."""

    seed: int
    stream: int


@lru_cache(maxsize=1 << 14)
def factor_stream(seed: int, tensor: str, factor: str) -> FactorStream:
    """The stream of one factor ("P", "Q", "S" or "T") of the tensor named ``tensor`` (section 1)."""
    digest = hashlib.sha256(tensor.encode() + b"\0" + factor.encode()).digest()
    return FactorStream(seed, int.from_bytes(digest[:8], "little"))


def philox4x32_10(counter: tuple[U32, U32, U32, U32], key: tuple[int, int]) -> tuple[U32, U32, U32, U32]:
    """Ten Philox rounds over arrays of counters: four words in, four words out, each uint32 of one shape."""
    x0, x1, x2, x3 = counter
    k0, k1 = key
    for _ in range(PHILOX_ROUNDS):
        product0 = x0.astype(np.uint64) * np.uint64(PHILOX_M0)
        product1 = x2.astype(np.uint64) * np.uint64(PHILOX_M1)
        x0 = _high(product1) ^ x1 ^ np.uint32(k0)
        x2 = _high(product0) ^ x3 ^ np.uint32(k1)
        x1, x3 = _low(product1), _low(product0)
        k0, k1 = (k0 + PHILOX_W0) & 0xFFFFFFFF, (k1 + PHILOX_W1) & 0xFFFFFFFF
    return x0, x1, x2, x3


def normals(stream: FactorStream, start: int, count: int) -> F32:
    """Normal numbers ``start`` … ``start + count - 1`` of a stream, float32 (count,) (sections 1 to 3).

    Any range can be made alone: it costs the blocks that it touches and nothing before them.
    """
    first, last = start // 4, -(-(start + count) // 4)
    x0, x1, x2, x3 = _blocks(stream, first, last - first)
    z0, z1 = _box_muller(x0, x1)
    z2, z3 = _box_muller(x2, x3)
    return np.stack([z0, z1, z2, z3], axis=-1).reshape(-1)[start - 4 * first :][:count]


def _blocks(stream: FactorStream, first: int, count: int) -> tuple[U32, U32, U32, U32]:
    block = np.arange(count, dtype=np.uint64) + np.uint64(first)
    s0, s1 = stream.stream & 0xFFFFFFFF, stream.stream >> 32
    counter = (_low(block), _high(block), np.full(count, s0, np.uint32), np.full(count, s1, np.uint32))
    return philox4x32_10(counter, (stream.seed & 0xFFFFFFFF, stream.seed >> 32))


def _low(x: npt.NDArray[np.uint64]) -> U32:
    return x.astype(np.uint32)


def _high(x: npt.NDArray[np.uint64]) -> U32:
    return (x >> np.uint64(32)).astype(np.uint32)


def _box_muller(x: U32, y: U32) -> tuple[F32, F32]:
    u = (x.astype(np.float32) + np.float32(0.5)) * np.float32(2.0**-32)  # step 1, in (0, 1]
    radius = np.sqrt(np.float32(-2.0) * _log(u), dtype=np.float32)  # step 3
    a = y.view(np.int32).astype(np.float32) * np.float32(2.0**-31)  # step 4, in [-1, 1]
    c = np.float32(0.5) - np.abs(a)
    s = np.float32(0.5) - np.abs(c)
    sine = _sinpi(s)
    return radius * _sinpi(c), radius * np.where(a < 0, -sine, sine)  # step 5


def _log(u: F32) -> F32:
    """ln u (step 2): u = 2^e (1 + m) with 1 + m in [sqrt(1/2), sqrt(2)), then a polynomial in m."""
    bits = u.view(np.int32)
    e = (bits - np.int32(SQRT_HALF_BITS)) >> np.int32(23)
    m = (bits - (e << np.int32(23))).view(np.float32) - np.float32(1.0)
    t = m * m
    p = (_horner(LOG_COEFFICIENTS, m) * m) * t - np.float32(0.5) * t
    return (m + p) + e.astype(np.float32) * LN2


def _sinpi(v: F32) -> F32:
    """sin(pi v) for v in [-1/2, 1/2]."""
    return _horner(SINPI_COEFFICIENTS, v * v) * v


def _horner(coefficients: list[np.float32], x: F32) -> F32:
    p = np.full_like(x, coefficients[0])
    for coefficient in coefficients[1:]:
        p = p * x + coefficient
    return p
