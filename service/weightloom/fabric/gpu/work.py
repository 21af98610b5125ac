"""One pass on a GPU: rows of a dtype go into one launch, a range is cut into parts that fit into the lane's memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from weightloom.fabric import kernels_cuda as kernels
from weightloom.fabric.dtypes import DType
from weightloom.fabric.factors import BUILD, DRAW, Factors, ResidentT
from weightloom.fabric.gpu.lane import STAGE_BYTES, Lane
from weightloom.fabric.passes import Piece

__all__ = ["Pass", "runs_of"]

F32 = npt.NDArray[np.float32]
Launch = Callable[[Any, DType, Any, int, int, int], None]  # of a kernel: see ``kernels.read``, less the planes


def runs_of(sources: npt.NDArray[np.uint8], start: int, stop: int, rows: int) -> list[tuple[int, int, int]]:
    """Elements start ... stop - 1 by where their chunks' normals come from: (source, first, last) of each run."""
    runs, chunk = [], start // rows
    for source, same in groupby(sources.tolist()):
        end = chunk + len(list(same))
        runs.append((source, max(start, chunk * rows), min(stop, end * rows)))
        chunk = end
    return runs


@dataclass
class _Batch:
    """Rows of one dtype that are woven in one launch: their h's (r, B) on the GPU, and blocks (b, count) of memory."""

    dtype: DType
    h: Any
    outs: list[npt.NDArray[Any]]

    @property
    def rows(self) -> int:
        return sum(map(len, self.outs))


class Pass:
    """What ``pieces`` want, in a lane."""

    def __init__(self, lane: Lane, factors: Factors, h: F32, pieces: Sequence[Piece]) -> None:
        self._lane, self._factors, self._start = lane, factors, pieces[0].start
        with lane.first():
            self._batches = [
                _Batch(dtype, lane.upload(_padded(rows)), outs) for dtype, rows, outs in _batched(h, pieces)
            ]

    def weave(self, runs: Sequence[tuple[int, int, int]], kept: ResidentT | None) -> None:
        """Begin all of it: builds first, then launches and copies. It is done when the lane has finished."""
        if kept is not None:
            with self._lane.first():
                for source, first, stop in runs:
                    if source == BUILD:
                        self._build(kept, first, stop)
        self._lane.follow()
        for source, first, stop in runs:
            launch = self._draws if kept is None or source == DRAW else self._reads(kept)
            for batch in self._batches:
                self._weave(batch, first, stop, launch)

    def _build(self, kept: ResidentT, first: int, stop: int) -> None:
        """The whole chunks that hold elements first ... stop - 1."""
        begin, end = first // kept.rows * kept.rows // 4, -(-stop // kept.rows) * kept.rows // 4
        kernels.draw(kept.planes[:, begin:end], self._factors.t, begin, end - begin)

    def _draws(self, out: Any, dtype: DType, h: Any, batch: int, first: int, groups: int) -> None:
        kernels.weave(out, dtype, h, batch, self._factors.t, first, groups, self._factors.r)

    def _reads(self, kept: ResidentT) -> Launch:
        def launch(out: Any, dtype: DType, h: Any, batch: int, first: int, groups: int) -> None:
            kernels.read(out, dtype, h, batch, kept.planes, first, groups)

        return launch

    def _weave(self, batch: _Batch, first: int, stop: int, launch: Launch) -> None:
        """Elements first ... stop - 1 in parts that fit into the lane's memory."""
        rows = batch.rows
        padded = batch.h.shape[1]
        step = 4 * kernels.groups_in(padded, STAGE_BYTES // rows, batch.dtype.itemsize)
        for begin in range(first // 4 * 4, stop, step):
            a, b = max(first, begin), min(stop, begin + step)
            groups = -(-b // 4) - begin // 4
            width = kernels.rows_of(padded, groups)
            with self._lane.turn() as out:
                launch(out, batch.dtype, batch.h, rows, begin // 4, groups)
                made = out.view(_bits(batch.dtype))[: rows * width].view(rows, width)
                _bring(made[:, a - begin : b - begin], batch.outs, a - self._start)


def _bring(made: Any, outs: list[npt.NDArray[Any]], column: int) -> None:
    """Start copying ``made`` (rows, n) to columns column ... column + n - 1 of all ``outs``, whose rows it holds."""
    row, n = 0, made.shape[1]
    for out in outs:
        target = torch.from_numpy(out.view(f"i{out.itemsize}"))
        if n == out.shape[1]:
            target.copy_(made[row : row + len(out)], non_blocking=True)
        else:
            for i in range(len(out)):
                target[i, column : column + n].copy_(made[row + i], non_blocking=True)
        row += len(out)


def _batched(h: F32, pieces: Sequence[Piece]) -> Iterator[tuple[DType, F32, list[npt.NDArray[Any]]]]:
    """Rows of one dtype, as many as one launch takes: (dtype, their h's (b, r), blocks of memory (…, count))."""
    most, firsts = kernels.BATCHES[-1], np.cumsum([0, *(len(piece.out) for piece in pieces)])
    for dtype in DType:
        hs: list[F32] = []
        outs: list[npt.NDArray[Any]] = []
        for first, piece in zip(firsts, pieces, strict=False):
            for i in range(0, len(piece.out) if piece.dtype is dtype else 0, most):
                out = piece.out[i : i + most]
                if sum(map(len, outs)) + len(out) > most:
                    yield dtype, np.concatenate(hs), outs
                    hs, outs = [], []
                hs.append(h[first + i : first + i + len(out)])
                outs.append(out)
        if outs:
            yield dtype, np.concatenate(hs), outs


def _padded(h: F32) -> F32:
    """h (b, r) -> (r, B), B the least of BATCHES that is large enough."""
    padded = np.zeros((h.shape[1], next(b for b in kernels.BATCHES if b >= len(h))), np.float32)
    padded[:, : len(h)] = h.T
    return padded


def _bits(dtype: DType) -> torch.dtype:
    return torch.int32 if dtype is DType.F32 else torch.int16
