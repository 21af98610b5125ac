"""The frozen factors P, Q, S and T of one tensor: which streams they are, and what is kept of them, if anything.

Whoever keeps factors (the engine's factor store) hands them out behind ``KeptFactors``; ``NOTHING_KEPT`` keeps none,
so that each number is drawn when it is needed (T is then *virtual*). The bits are the same either way.
"""

from __future__ import annotations

import math
import mmap
import threading
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from weightloom.fabric.imported import Blob
from weightloom.fabric.streams import FactorStream, factor_stream

__all__ = [
    "BUILD",
    "DRAW",
    "GROUPS",
    "NOTHING_KEPT",
    "READ",
    "Factors",
    "ImportedOnly",
    "KeptFactors",
    "ResidentT",
    "chunk_groups",
    "shape_of_t",
]

F32 = npt.NDArray[np.float32]
U8 = npt.NDArray[np.uint8]

DRAW, BUILD, READ = 0, 1, 2  # where a chunk's normals come from: drawn; drawn to be kept; kept
GROUPS = 1024  # of four rows, in a chunk and in a plane
CHUNK_DRAWS = 1 << 19


class Factors:
    """Of the tensor called ``tensor`` under a 64-bit ``seed``: P (l, r), Q and S (hidden_dim, r), T (numel, r).

    numbers: the seed and the streams P, Q, S and T, as kernels take them: uint64 (5,). key: equal for the same T.
    """

    __slots__ = ("hidden_dim", "key", "l", "numbers", "numel", "r", "seed", "tensor")

    def __init__(self, seed: int, tensor: str, l: int, r: int, hidden_dim: int, numel: int) -> None:
        self.seed, self.tensor, self.l, self.r, self.hidden_dim, self.numel = seed, tensor, l, r, hidden_dim, numel
        streams = [factor_stream(seed, tensor, factor).stream for factor in "PQST"]
        self.numbers = np.array([seed, *streams], np.uint64)
        self.key = (seed, streams[3], r, numel)

    def _stream(self, place: int) -> FactorStream:
        return FactorStream(self.seed, int(self.numbers[place]))

    @property
    def p(self) -> FactorStream:
        """P's stream."""
        return self._stream(1)

    @property
    def q(self) -> FactorStream:
        """Q's stream."""
        return self._stream(2)

    @property
    def s(self) -> FactorStream:
        """S's stream."""
        return self._stream(3)

    @property
    def t(self) -> FactorStream:
        """T's stream."""
        return self._stream(4)

    @property
    def pqs_sizes(self) -> tuple[int, int, int]:
        """Elements of P, Q and S."""
        return self.l * self.r, self.hidden_dim * self.r, self.hidden_dim * self.r


def chunk_groups(r: int, numel: int) -> int:
    """Groups of four rows in a chunk of a resident T: at most 2^19 numbers, and whole tiles are whole chunks."""
    return min(max(128, min(GROUPS, CHUNK_DRAWS // (4 * r))), -(-numel // 4))


def shape_of_t(factors: Factors) -> tuple[int, int, int]:
    """Chunks of a resident T, planes of each, and groups of each plane."""
    groups = chunk_groups(factors.r, factors.numel)
    return -(-factors.numel // (4 * groups)), 4 * factors.r, groups


def _mapped(shape: tuple[int, int, int]) -> F32:
    return np.frombuffer(mmap.mmap(-1, 4 * math.prod(shape)), np.float32).reshape(shape)


class ResidentT:
    """Memory for T (numel, r), which passes fill chunk by chunk as they draw it, so that nobody waits for it.

    planes (chunks, 4 r, groups) float32: number k of row 4 g + i of a chunk lies at planes[chunk, i r + k, g]. sources
    (chunks,) uint8: what the next pass has to do. is_whole: every chunk is there to be read. rows: of a chunk. The
    memory is a mapping of its own, which the system gets back when this goes; a device may give other ``memory``, with
    planes of its own order.
    """

    def __init__(self, factors: Factors, memory: Callable[[tuple[int, int, int]], Any] = _mapped) -> None:
        shape = shape_of_t(factors)
        self.planes = memory(shape)
        self.rows, self._chunk_bytes = 4 * shape[2], 4 * shape[1] * shape[2]
        self.sources: U8 = np.full(shape[0], BUILD, np.uint8)
        self._numel, self.is_whole = factors.numel, False
        self._lock = threading.Lock()

    @staticmethod
    def size_of(factors: Factors) -> int:
        """Bytes of the memory for these factors' T."""
        return 4 * math.prod(shape_of_t(factors))

    @property
    def drawn_bytes(self) -> int:
        """Bytes of it that are there to be read."""
        return int(np.count_nonzero(self.sources == READ)) * self._chunk_bytes

    def claim(self, start: int, count: int) -> U8:
        """Where a pass over rows start ... start + count - 1 finds its chunks: uint8, one for each.

        A chunk is built by one pass that wants a quarter of it at least; others draw for themselves what they want of
        it. ``release`` must follow.
        """
        first, stop = start // self.rows, -(-(start + count) // self.rows)
        if self.is_whole:
            return self.sources[first:stop]
        with self._lock:
            sources = self.sources[first:stop].copy()
            for chunk in {first, stop - 1}:
                if sources[chunk - first] == BUILD and self._is_little(chunk, start, start + count):
                    sources[chunk - first] = DRAW
            self.sources[first:stop][sources == BUILD] = DRAW
        return sources

    def _is_little(self, chunk: int, start: int, stop: int) -> bool:
        """Whether rows start ... stop - 1 are so few of a chunk that to draw all of it would take too long for them."""
        begin, end = chunk * self.rows, min(self._numel, (chunk + 1) * self.rows)
        return 4 * (min(stop, end) - max(start, begin)) < end - begin

    def release(self, start: int, sources: U8, *, built: bool) -> None:
        """End a claim on chunks from row ``start`` on: what it was to build is there now, or is to be built again."""
        if self.is_whole:
            return
        first = start // self.rows
        with self._lock:
            self.sources[first : first + len(sources)][sources == BUILD] = READ if built else BUILD
            self.is_whole = bool((self.sources == READ).all())


class KeptFactors(Protocol):
    """What a weaver may find kept. Safe to use from many threads."""

    def expect(self, factors: Factors) -> None:
        """A request is going to weave with these factors: the moment to decide whether their T is kept."""

    def t(self, factors: Factors) -> ResidentT | None:
        """T, if it is resident now."""

    def pqs(self, factors: Factors) -> tuple[F32, F32, F32] | None:
        """P, Q and S in row-major order, each float32 (elements,); None where they are too large to be kept."""

    def imported(self, blob: Blob) -> F32 | None:
        """The numbers of a blob, float32 (count,) and not to be written to; None where it is not here, or of another
        size."""


class ImportedOnly:
    """Keeps nothing that could be drawn; ``find`` is where imported factors come from."""

    def __init__(self, find: Callable[[Blob], F32 | None]) -> None:
        self.imported = find

    def expect(self, factors: Factors) -> None:
        """Nothing to decide."""

    def t(self, factors: Factors) -> None:
        """None."""

    def pqs(self, factors: Factors) -> None:
        """None."""


NOTHING_KEPT: KeptFactors = ImportedOnly(lambda blob: None)
