"""Memory for tiles, used again as soon as nobody holds a view of it, and never before.

A tile's memory must stay untouched until the transport has written it out, which no event reports (``send()``
returns earlier; reusing buffers by counting sends has corrupted streams). So the reference count decides: every view
of a tile keeps a lease alive, and the lease gives its block back when the last view is gone. Reuse matters because
fresh memory costs a page fault per 4 KiB, about as much time as weaving it at r = 1.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from weightloom.fabric.device import aligned_block
from weightloom.fabric.leases import lease

__all__ = ["TileBuffers"]

Bytes = npt.NDArray[np.uint8]


class TileBuffers:
    """Blocks of ``block_bytes`` from ``new_block``, of which up to ``kept`` lie ready for reuse.

    Safe to use from many threads.
    """

    def __init__(self, block_bytes: int, kept: int, new_block: Callable[[int], Bytes] = aligned_block) -> None:
        self._block_bytes, self._new_block = block_bytes, new_block
        self._free: deque[Bytes] = deque(maxlen=kept)

    def take(self, size: int) -> Bytes:
        """Writable memory of ``size`` bytes, 64-byte aligned where it comes from a block; contents are rubbish."""
        if not self._block_bytes // 4 < size <= self._block_bytes:
            return np.empty(size, np.uint8)
        try:
            block = self._free.pop()
        except IndexError:
            block = self._new_block(self._block_bytes)
        return lease(block, self._free)[:size]

    @property
    def idle_bytes(self) -> int:
        """Bytes that lie ready for reuse."""
        return len(self._free) * self._block_bytes
