"""The seam to the hardware: where W is made, in which memory T's may be kept, and how large a tile is worth while."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from weightloom.errors import InvalidInput, Unavailable
from weightloom.fabric.backend import Backend, load_backend
from weightloom.fabric.factors import Factors, ResidentT
from weightloom.fabric.sections import TileSize

__all__ = ["Cpu", "Device", "HostMemory", "Memory", "OnFull", "aligned_block", "open_device"]

log = logging.getLogger(__name__)


class OnFull(Protocol):
    """What frees some of a memory (by its place in ``Device.memories``) when it is full."""

    def __call__(self, place: int) -> bool:
        """Whether something was given up."""


class Memory(Protocol):
    """A memory in which T's can be kept."""

    @property
    def name(self) -> str:
        """As in metrics and messages: "host", "cuda:0"."""

    @property
    def budget(self) -> int | None:
        """Bytes for T's; None where the server's setting ``factor_bytes`` says it."""

    def new_t(self, factors: Factors) -> ResidentT:
        """Memory for a T. Raises MemoryError, OSError."""


class Device(Protocol):
    """What the engine works with. Safe to use from many threads."""

    on_full: OnFull | None

    @property
    def name(self) -> str:
        """ "cpu", or the GPUs' names."""

    @property
    def backend(self) -> Backend:
        """The arithmetic."""

    @property
    def memories(self) -> Sequence[Memory]:
        """Where T's can be kept; the host's memory is the first."""

    @property
    def tile(self) -> TileSize:
        """What is worth a tile here."""

    def place_of(self, factors: Factors) -> int:
        """Which of ``memories`` these factors' T is kept in, if it is."""

    def host_block(self, size: int) -> npt.NDArray[np.uint8]:
        """Memory of the host that the device writes to best: uint8 (size,), 64-byte aligned."""

    def probes(self) -> Iterable[Backend]:
        """Each arithmetic that W is made with: all of them must give a known answer before the server is ready."""

    def problems(self) -> dict[str, str]:
        """What does not work any more, though the server can do without it."""


def aligned_block(size: int) -> npt.NDArray[np.uint8]:
    """Memory of the host: uint8 (size,), 64-byte aligned."""
    raw = np.empty(size + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + size]


@dataclass(frozen=True)
class HostMemory:
    """The process's own memory."""

    name: str = "host"
    budget: int | None = None

    def new_t(self, factors: Factors) -> ResidentT:
        """A mapping of its own."""
        return ResidentT(factors)


class Cpu:
    """The processor, with either of its backends."""

    def __init__(self, backend: Backend) -> None:
        self.name, self.backend, self.tile = "cpu", backend, TileSize()
        self.memories = [HostMemory(budget=None if backend.READS_T else 0)]
        self.on_full: OnFull | None = None

    def place_of(self, factors: Factors) -> int:
        """There is one memory."""
        return 0

    def host_block(self, size: int) -> npt.NDArray[np.uint8]:
        """Plain memory."""
        return aligned_block(size)

    def probes(self) -> Iterable[Backend]:
        """The backend."""
        return [self.backend]

    def problems(self) -> dict[str, str]:
        """None."""
        return {}


def open_device(
    name: str = "auto", backend: str = "auto", *, gpu_factor_bytes: int | None = None, gpu_share: float = 1.0,
    gpu_fallback: bool = False,
) -> Device:  # fmt: skip
    """The device called ``name``: "cpu", "cuda" (all GPUs), "cuda:N", or "auto" for GPUs where they can be used.

    backend: the CPU's arithmetic. gpu_factor_bytes: of each GPU for T's; None for half of what is free, of which
    ``gpu_share`` is this process's. gpu_fallback: whether the CPU goes on alone where all GPUs are lost.
    GPUs are ready for use: their kernels are compiled and have given the processor's bits.
    Raises InvalidInput for another name, Unavailable where a GPU is asked for that can not be used.
    """
    if name not in {"auto", "cpu", "cuda"} and not name.removeprefix("cuda:").isdecimal():
        raise InvalidInput.at("device", name, "auto, cpu, cuda or cuda:N")
    host = load_backend(backend)
    if name != "cpu":
        from weightloom.fabric.gpu.finding import find_gpus

        try:
            found = find_gpus(name)
            if found:
                from weightloom.fabric.gpu.device import Cuda

                device = Cuda(found, host, gpu_factor_bytes, gpu_share, gpu_fallback)
                device.warm_up()
                return device
        except Unavailable as error:
            if name != "auto":
                raise
            log.warning("there is a GPU here, but it is not used: %s", error.message)
    return Cpu(host)
