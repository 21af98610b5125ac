"""All GPUs and the processor beside them, as one device.

A pass goes to the GPU that keeps its T, or to the least busy one where T is virtual. What is so little that a launch
would take longer, the processor makes: the bits are the same. h is computed on the processor in any case.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt

from weightloom.errors import Unavailable, WeightloomError
from weightloom.fabric import kernels_cuda as kernels
from weightloom.fabric.backend import Backend
from weightloom.fabric.device import HostMemory, Memory, OnFull, aligned_block
from weightloom.fabric.dtypes import DType
from weightloom.fabric.factors import Factors, ResidentT
from weightloom.fabric.gpu.gpu import Gpu, GpuFull, GpuLost, GpuT
from weightloom.fabric.gpu.pinned import Pinned
from weightloom.fabric.passes import Piece
from weightloom.fabric.sections import TileSize
from weightloom.fabric.streams import FactorStream

__all__ = ["Cuda"]

log = logging.getLogger(__name__)

LEAST_NORMALS = 1 << 16  # a processor's core draws so many in some 100 microseconds, which a launch and a copy may take
WARM_ELEMENTS = 2000

F32 = npt.NDArray[np.float32]


class Cuda:
    """GPUs by torch's ``names``, over ``host``. It is its own backend. See ``open_device`` for the rest."""

    NAME, READS_T = "cuda", True

    def __init__(
        self,
        names: Sequence[str],
        host: Backend,
        factor_bytes: int | None = None,
        share: float = 1.0,
        fallback: bool = False,
        least_normals: int = LEAST_NORMALS,
    ) -> None:
        self.gpus = [_opened(name, factor_bytes, share) for name in names]
        self.name, self.backend = ", ".join(names), self
        self.memories: list[Memory] = [HostMemory(budget=None if host.READS_T else 0), *self.gpus]
        self.tile = TileSize(4 << 20, 1 << 29)  # a launch and its copy are estimated at 200 microseconds
        self.on_full: OnFull | None = None
        self._host, self._fallback, self._least_normals = host, fallback, least_normals
        self._pinned = Pinned()

    def place_of(self, factors: Factors) -> int:
        """Small T's stay with the processor, which makes what needs them; others have a GPU of their own."""
        at = int(factors.numbers[4]) % len(self.gpus)
        is_small = factors.numel * factors.r < self._least_normals
        return 0 if is_small or self.gpus[at].lost else 1 + at

    def host_block(self, size: int) -> npt.NDArray[np.uint8]:
        """Pinned memory, to which a GPU copies without a stop in between; plain memory where there is none of it."""
        gpu = next((gpu for gpu in self.gpus if not gpu.lost), None)
        pinned = None if gpu is None or gpu.device.type == "cpu" else self._pinned.take(size, gpu.device)
        return aligned_block(size) if pinned is None else pinned

    def hidden(self, factors: Factors, w: F32, scale: float, pqs: tuple[F32, F32, F32] | None) -> F32:
        """See ``Backend``."""
        return self._host.hidden(factors, w, scale, pqs)

    def normals(self, stream: FactorStream, start: int, count: int) -> F32:
        """See ``Backend``. The processor draws: what is wanted as an array is P, Q or S, and mostly small."""
        return self._host.normals(stream, start, count)

    def weave(self, factors: Factors, h: F32, pieces: Sequence[Piece], kept: ResidentT | None) -> None:
        """See ``Backend``. Raises Unavailable where a GPU has no memory left, or is lost."""
        if kept is not None and not isinstance(kept, GpuT):
            self._host.weave(factors, h, pieces, kept)
            return
        while True:
            gpu = self._gpu_for(kept, pieces[0].count * factors.r)
            if gpu is None:
                self._host.weave(factors, h, pieces, None)
                return
            try:
                gpu.weave(factors, h, pieces, kept if kept is not None and kept.gpu is gpu else None)
                return
            except GpuFull as error:
                self._make_room(gpu, error)
            except GpuLost as error:
                self._tell_lost(gpu, error)

    def _gpu_for(self, kept: GpuT | None, normals: int) -> Gpu | None:
        """The GPU for a pass; None for the processor. Raises Unavailable where all are lost."""
        is_little = normals < self._least_normals
        if kept is not None and not kept.gpu.lost and not (is_little and kept.is_whole):  # or it would never be whole
            return kept.gpu
        if is_little:
            return None
        running = [gpu for gpu in self.gpus if not gpu.lost]
        if not running and not self._fallback:
            raise _lost(self.gpus[0])
        return min(running, key=lambda gpu: gpu.busy, default=None)

    def _make_room(self, gpu: Gpu, error: GpuFull) -> None:
        """Give up some of what is kept there. Raises Unavailable where nothing is."""
        if self.on_full is not None and self.on_full(1 + self.gpus.index(gpu)):
            log.warning("gave up a T, since memory ran out: %s", error)
            return
        raise Unavailable(str(error), code="gpu_out_of_memory") from error

    def _tell_lost(self, gpu: Gpu, error: GpuLost) -> None:
        others = "others go on" if any(not other.lost for other in self.gpus) else "no other is left"
        log.error("%s is lost, %s: %s", gpu.name, others, error)

    def probes(self) -> Iterable[Backend]:
        """The processor's backend, and each GPU alone. A lost one's raises Unavailable, unless there is a fallback."""
        alone = [_Alone(gpu, self._host) for gpu in self.gpus if not (gpu.lost and self._fallback)]
        return [self._host, *alone]

    def warm_up(self) -> None:
        """Compile and load all kernels, and compare their bits with the processor's. Raises Unavailable."""
        for gpu in self.gpus:
            log.info("%s: loading the kernels (the very first start compiles them, for about a minute)", gpu.name)
            for r in (2,) if kernels.INTERPRETED else range(1, kernels.FEW + 3):
                for batch in kernels.BATCHES:
                    with _explained(gpu.name):
                        self._prove(gpu, r, batch)

    def _prove(self, gpu: Gpu, r: int, batch: int) -> None:
        factors = Factors(r, f"warm {batch}", 1, r, 1, WARM_ELEMENTS)
        h = np.random.default_rng(r).standard_normal((3 * batch, r)).astype(np.float32)
        with _told(gpu):
            for kept in (None, gpu.new_t(factors)):
                ours, theirs = _rows(batch), _rows(batch)
                gpu.weave(factors, h, ours, kept)
                self._host.weave(factors, h, theirs, None)
                if any(one.out.tobytes() != other.out.tobytes() for one, other in zip(ours, theirs, strict=True)):
                    raise Unavailable(f"{gpu.name} makes wrong bits (r = {r}, {batch} w's)", code="wrong_bits")

    def problems(self) -> dict[str, str]:
        """Lost GPUs that the processor stands in for."""
        return {gpu.name: f"lost, the processor goes on: {gpu.lost}" for gpu in self.gpus if gpu.lost}


def _rows(batch: int) -> list[Piece]:
    """``batch`` rows of each dtype."""
    outs = [(dtype, np.empty((batch, WARM_ELEMENTS), dtype.storage)) for dtype in DType]
    return [Piece(None, 0, 0, dtype, out) for dtype, out in outs]  # type: ignore[arg-type]


class _Alone:
    """A GPU as a backend: nothing is too little for it, and no other one takes its place."""

    READS_T = True

    def __init__(self, gpu: Gpu, host: Backend) -> None:
        self.NAME, self._gpu, self.hidden = f"cuda on {gpu.name}", gpu, host.hidden

    def weave(self, factors: Factors, h: F32, pieces: Sequence[Piece], kept: ResidentT | None) -> None:
        with _told(self._gpu):
            self._gpu.weave(factors, h, pieces, kept if isinstance(kept, GpuT) else None)

    def normals(self, stream: FactorStream, start: int, count: int) -> F32:
        with _told(self._gpu):
            return self._gpu.normals(stream, start, count)


@contextmanager
def _told(gpu: Gpu) -> Iterator[None]:
    try:
        yield
    except GpuFull as error:
        raise Unavailable(str(error), code="gpu_out_of_memory") from error
    except GpuLost as error:
        raise _lost(gpu) from error


def _opened(name: str, factor_bytes: int | None, share: float) -> Gpu:
    with _explained(name):
        return Gpu(name, factor_bytes, share)


@contextmanager
def _explained(name: str) -> Iterator[None]:
    """A GPU may be another process's alone. Triton needs a C compiler, Python's headers, and a folder to write to."""
    try:
        yield
    except WeightloomError:
        raise
    except Exception as error:
        told = str(error).partition("\n")[0] or type(error).__name__
        raise Unavailable(f"{name} cannot be used: {told}", code="gpu_unavailable") from error


def _lost(gpu: Gpu) -> Unavailable:
    return Unavailable(f"{gpu.name} is lost: {gpu.lost}", code="gpu_lost")
