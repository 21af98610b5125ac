"""What bounds the engine's use of the machine."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field
from pathlib import Path

from weightloom.engine.factors import Residency
from weightloom.engine.keys import Auth
from weightloom.fabric.layout import TILE, TileSize

__all__ = ["MIN_BODY_RATE", "BodyPace", "EngineLimits", "available_cores"]

MIN_BODY_RATE = 1024  # bytes a second, of a body for which stall_seconds have been waited already
CGROUP = Path("/sys/fs/cgroup")  # in a container its own


def available_cores(cgroup: Path = CGROUP) -> int:
    """Cores that this process may use: of its affinity, and within its container's limit of processor time."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, max(1, math.ceil(_cores_of_time(cgroup))))


def _cores_of_time(cgroup: Path) -> float:
    """The limit of processor time, in cores, as versions 2 and 1 of control groups say it; a large one for none."""
    for files in (["cpu.max"], ["cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us"]):
        try:
            most, period = " ".join((cgroup / file).read_text() for file in files).split()
            if int(most) > 0:  # -1 and "max" mean none
                return int(most) / int(period)
        except (OSError, ValueError):
            continue
    return 1 << 20


@dataclass
class BodyPace:
    """How long a body's next part may take: ``seconds``, but no longer than leaves MIN_BODY_RATE beyond them, lest a
    byte now and then keep a connection for days. seen: bytes that have come. waited: seconds that it took.
    """

    seconds: float
    seen: int = 0
    waited: float = 0.0

    @property
    def left(self) -> float:
        """In seconds."""
        return min(self.seconds, self.seconds + self.seen / MIN_BODY_RATE - self.waited)

    def came(self, size: int, waited: float) -> None:
        """A part of ``size`` bytes, after so many seconds."""
        self.seen, self.waited = self.seen + size, self.waited + waited


@dataclass(frozen=True)
class EngineLimits:
    """What the settings of the same names bound.

    threads: tile workers. tile: size of a tile. tile_window: tiles in flight per stream; a stream holds at most
    tile.bytes x tile_window, beside what its transport buffers. max_output_bytes: of one response. max_streams may run
    while max_queued wait, each for max_queue_seconds at most; max_bytes_in_flight bounds what both hold. stall_seconds:
    for how long a reader may take nothing. auth: whether API keys are asked for. residency, factor_bytes (of T's) and
    small_factor_bytes (of P's, Q's and S's) are the factor store's.
    """

    threads: int = field(default_factory=available_cores)
    tile: TileSize = TILE
    tile_window: int = 4
    max_output_bytes: int = 1 << 40
    max_streams: int = 256
    max_queued: int = 1024
    max_bytes_in_flight: int = 1 << 30
    max_queue_seconds: float = 30.0
    stall_seconds: float = 60.0
    residency: Residency = Residency.AUTO
    auth: Auth = Auth.OFF
    factor_bytes: int = 1 << 30
    small_factor_bytes: int = 64 << 20
