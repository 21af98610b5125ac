"""Memory of the host that stays where it is, so that GPUs copy to it by themselves while the processor does other work.

Not torch's: torch remembers which streams have copied to memory of its own and records an event on them when the memory
is freed, and where the GPU is lost that raises within a destructor, which ends the process. This memory torch knows
nothing of. Nothing waits for such an event here: a pass ends when its copies have.
"""

from __future__ import annotations

import logging
import mmap
from collections import defaultdict, deque
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from weightloom.fabric.leases import lease

__all__ = ["Pinned"]

log = logging.getLogger(__name__)

PORTABLE = 1  # cudaHostRegisterPortable: for all GPUs

Bytes = npt.NDArray[np.uint8]


class Pinned:
    """Blocks that are pinned once and used again. Safe to use from many threads."""

    def __init__(self) -> None:
        self._free: defaultdict[int, deque[Bytes]] = defaultdict(deque)
        self._is_refused = False

    def take(self, size: int, device: torch.device) -> Bytes | None:
        """uint8 (size,), aligned to a page; None where the system pins no more. It comes back with its last view."""
        home = self._free[size]
        try:
            block = home.pop()
        except IndexError:
            if self._is_refused:
                return None
            block = np.frombuffer(mmap.mmap(-1, size), np.uint8)
            problem = _pin(block, device)
            if problem:
                self._is_refused = True
                log.warning("no more memory can be pinned, copies to other memory are slower: %s", problem)
                return None
        return lease(block, home)


def _pin(block: Bytes, device: torch.device) -> str:
    """What went wrong, or nothing. It is never undone: that would wait for the GPU."""
    try:
        with torch.cuda.device(device):
            cudart: Any = torch.cuda.cudart()  # type: ignore[no-untyped-call]
            code = int(cudart.cudaHostRegister(block.ctypes.data, block.nbytes, PORTABLE))
    except RuntimeError as error:  # of an earlier piece of work
        return str(error).partition("\n")[0]
    return f"CUDA error {code}" if code else ""
