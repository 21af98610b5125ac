"""One GPU: its lanes of work, its memory for T's, and what can go wrong with it."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
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
from weightloom.fabric.streams import FactorStream

__all__ = ["Gpu", "GpuFull", "GpuLost", "GpuT"]

NORMALS_AT_ONCE = 1 << 22
SPARE_BYTES = 1 << 30  # for lanes, and what torch keeps ready
INTERPRETED_BUDGET = 1 << 28
INTERPRETER = threading.Lock()  # its state is the process's

F32 = npt.NDArray[np.float32]
Launch = Callable[[Any, DType, Any, int, int, int], None]  # of a kernel: see ``kernels.read``, less the planes


class GpuFull(MemoryError):
    """The GPU's memory is used up."""


class GpuLost(OSError):
    """The GPU, or this process's way to it, does not work any more."""


class GpuT(ResidentT):
    """A T in the memory of ``gpu``: planes is a float32 tensor (4 r, chunks x groups)."""

    def __init__(self, factors: Factors, gpu: Gpu) -> None:
        super().__init__(factors, gpu.allocate)
        self.gpu = gpu


class Gpu:
    """The GPU that torch calls ``name``. budget: bytes for T's. Safe to use from many threads."""

    def __init__(self, name: str, budget: int | None = None, share: float = 1.0) -> None:
        self.name, self.lost, self.busy = name, "", 0
        self.device = torch.device("cpu" if kernels.INTERPRETED else name)
        self.budget = self._half_of_what_is_free(share) if budget is None else int(budget * share)
        self._idle: deque[Lane] = deque()
        self._lock = threading.Lock()
        self._alone: AbstractContextManager[object] = INTERPRETER if kernels.INTERPRETED else nullcontext()

    def _half_of_what_is_free(self, share: float) -> int:
        if kernels.INTERPRETED:
            return INTERPRETED_BUDGET
        return int(torch.cuda.mem_get_info(self.device)[0] / 2 * share)

    def new_t(self, factors: Factors) -> GpuT:
        """Memory for a T. Raises GpuFull, GpuLost."""
        return GpuT(factors, self)

    def allocate(self, shape: tuple[int, int, int]) -> Any:
        """Planes for (chunks, 4 r, groups): the chunks lie side by side, so that any run of groups is read at once."""
        chunks, planes, groups = shape
        with self._told():
            made = torch.empty((planes, chunks * groups), dtype=torch.float32, device=self.device)
            self._give_back()
        return made

    def _give_back(self) -> None:
        """What torch keeps of T's that are gone, once it is much: other processes want to use the GPU, too."""
        if self.device.type == "cuda" and torch.cuda.memory_reserved(self.device) > self.budget * 5 // 4 + SPARE_BYTES:
            torch.cuda.empty_cache()

    def normals(self, stream: FactorStream, start: int, count: int) -> F32:
        """See ``streams.normals``: a factor of one column, in parts. Raises GpuFull, GpuLost."""
        out = np.empty(count, np.float32)
        for done in range(0, count, NORMALS_AT_ONCE):
            first, n = (start + done) // 4, min(NORMALS_AT_ONCE, count - done)
            groups = -(-(start + done + n) // 4) - first
            with self._lane() as lane, lane.turn():
                planes = torch.empty((4, groups), dtype=torch.float32, device=self.device)
                kernels.draw(planes, stream, first, groups)
                drawn = planes.T.reshape(-1).cpu().numpy()
            out[done : done + n] = drawn[start + done - 4 * first :][:n]
        return out

    def weave(self, factors: Factors, h: F32, pieces: Sequence[Piece], kept: GpuT | None) -> None:
        """See ``Backend.weave``. Raises GpuFull, GpuLost; no memory of the pieces is written to after that."""
        start, count = pieces[0].start, pieces[0].count
        if kept is None:
            with self._lane() as lane:
                _Pass(lane, factors, h, pieces).weave([(DRAW, start, start + count)], None)
            return
        sources, built = kept.claim(start, count), False
        try:
            with self._lane() as lane:
                _Pass(lane, factors, h, pieces).weave(_runs(sources, start, start + count, kept.rows), kept)
            built = True
        finally:
            kept.release(start, sources, built=built)

    @contextmanager
    def _lane(self) -> Iterator[Lane]:
        """A lane for one pass. All of its work has ended when it is left, be it by an error."""
        with self._lock:
            self.busy += 1
            lane = self._idle.pop() if self._idle else None
        try:
            with self._told(), self._alone, self._current():
                lane = lane or Lane(self.device)
                try:
                    yield lane
                finally:
                    lane.finish()
                    self._idle.append(lane)  # after an error, too: where memory is short, a new one would take more
        finally:
            with self._lock:
                self.busy -= 1

    def _current(self) -> AbstractContextManager[None]:
        """This GPU as the thread's. Or leaving a stream would go back to the first GPU, and wake it up for nothing."""
        return nullcontext() if kernels.INTERPRETED else torch.cuda.device(self.device)

    @contextmanager
    def _told(self) -> Iterator[None]:
        """torch's and Triton's errors as ours."""
        if self.lost:
            raise GpuLost(self.lost)
        try:
            yield
        except RuntimeError as error:
            if isinstance(error, torch.OutOfMemoryError) or "out of memory" in str(error).lower():
                raise GpuFull(f"{self.name}: {_first_line(error)}") from error
            if not self._answers():
                self.lost = self.lost or _first_line(error)
                raise GpuLost(self.lost) from error
            raise

    def _answers(self) -> bool:
        """Whether the GPU still does: an error that it does not forget comes up again whatever it is asked."""
        try:
            self._wait()
        except RuntimeError:
            return False
        return True

    def _wait(self) -> None:
        """For all that was begun. Raises torch's errors."""
        if not kernels.INTERPRETED:
            torch.cuda.synchronize(self.device)


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]


def _runs(sources: npt.NDArray[np.uint8], start: int, stop: int, rows: int) -> list[tuple[int, int, int]]:
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


class _Pass:
    """What ``pieces`` want, in a lane."""

    def __init__(self, lane: Lane, factors: Factors, h: F32, pieces: Sequence[Piece]) -> None:
        self._lane, self._factors, self._start = lane, factors, pieces[0].start
        with lane.first():
            self._batches = [
                _Batch(dtype, lane.upload(_padded(rows)), outs) for dtype, rows, outs in _batched(h, pieces)
            ]

    def weave(self, runs: Sequence[tuple[int, int, int]], kept: GpuT | None) -> None:
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

    def _build(self, kept: GpuT, first: int, stop: int) -> None:
        """The whole chunks that hold elements first ... stop - 1."""
        begin, end = first // kept.rows * kept.rows // 4, -(-stop // kept.rows) * kept.rows // 4
        kernels.draw(kept.planes[:, begin:end], self._factors.t, begin, end - begin)

    def _draws(self, out: Any, dtype: DType, h: Any, batch: int, first: int, groups: int) -> None:
        kernels.weave(out, dtype, h, batch, self._factors.t, first, groups, self._factors.r)

    def _reads(self, kept: GpuT) -> Launch:
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
