"""One GPU: its lanes of work, its memory for T's, and what can go wrong with it."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from weightloom.fabric import kernels_cuda as kernels
from weightloom.fabric.factors import DRAW, Factors, ResidentT
from weightloom.fabric.gpu.lane import Lane
from weightloom.fabric.gpu.work import Pass, runs_of
from weightloom.fabric.passes import Piece
from weightloom.fabric.streams import FactorStream

__all__ = ["Gpu", "GpuFull", "GpuLost", "GpuT"]

NORMALS_AT_ONCE = 1 << 22
SPARE_BYTES = 1 << 30  # for lanes, and what torch keeps ready
INTERPRETED_BUDGET = 1 << 28
INTERPRETER = threading.Lock()  # its state is the process's

F32 = npt.NDArray[np.float32]


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
                Pass(lane, factors, h, pieces).weave([(DRAW, start, start + count)], None)
            return
        sources, built = kept.claim(start, count), False
        try:
            with self._lane() as lane:
                Pass(lane, factors, h, pieces).weave(runs_of(sources, start, start + count, kept.rows), kept)
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
