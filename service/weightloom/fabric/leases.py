"""Memory that comes back to its pool when nobody holds a view of it any more, and never before."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["lease"]

Bytes = npt.NDArray[np.uint8]


def lease(block: Bytes, home: deque[Bytes]) -> Bytes:
    """``block`` as an array; when the last array or memoryview made from it is gone, the block is in ``home``."""
    return np.asarray(_Lease(block, home))


class _Lease:
    """Owns a block for as long as any array or memoryview made from it lives."""

    def __init__(self, block: Bytes, home: deque[Bytes]) -> None:
        self._block, self._home = block, home

    @property
    def __array_interface__(self) -> dict[str, Any]:
        return self._block.__array_interface__

    def __del__(self) -> None:
        self._home.append(self._block)
