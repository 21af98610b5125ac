"""What bounds the engine's use of the machine."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from weightloom.fabric.layout import TILE_BYTES

__all__ = ["EngineLimits", "available_cores"]


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True)
class EngineLimits:
    """What the settings of the same names bound.

    threads: tile workers. tile_bytes: output of a tile. tile_window: tiles in flight per stream; a stream holds at most
    tile_bytes x tile_window, beside what its transport buffers. max_output_bytes: of one response.
    """

    threads: int = field(default_factory=available_cores)
    tile_bytes: int = TILE_BYTES
    tile_window: int = 4
    max_output_bytes: int = 1 << 40
