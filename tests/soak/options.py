"""How long a soak takes and how many take part, and the settings that make the server's gate narrow."""

from __future__ import annotations

import os
from dataclasses import dataclass
from random import SystemRandom
from typing import Self

__all__ = ["STALL_SECONDS", "SettingValue", "SoakOptions", "narrow_settings"]

MIB = 1 << 20
STALL_SECONDS = 4.0  # of a busy machine's pauses none should be so long
LARGEST_SEED = 10**6

SettingValue = int | float | str


@dataclass(frozen=True)
class SoakOptions:
    """seconds: of the soak, beside a warm-up. clients: that come at the same time. seed: of what they do."""

    seconds: float
    clients: int
    seed: int
    workers: tuple[int, ...]

    @classmethod
    def from_environment(cls) -> Self:
        """SOAK_SECONDS, SOAK_CLIENTS, SOAK_SEED and SOAK_WORKERS; the defaults are the short form's."""
        seed = os.environ.get("SOAK_SEED") or SystemRandom().randrange(LARGEST_SEED)
        return cls(
            seconds=float(os.environ.get("SOAK_SECONDS") or 9),
            clients=int(os.environ.get("SOAK_CLIENTS") or 150),
            seed=int(seed),
            workers=tuple(map(int, (os.environ.get("SOAK_WORKERS") or "1").split(","))),
        )

    @property
    def warm_up_seconds(self) -> float:
        """Before the first measurement: long enough for pools and caches to reach their size."""
        return min(15.0, max(5.0, self.seconds / 4))


def narrow_settings() -> dict[str, SettingValue]:
    """Few places, little patience and small limits, so that each of them is met; and a log that can be read back."""
    return {
        "max_streams": 8,
        "max_queued": 16,
        "max_queue_seconds": 0.5,
        "stall_seconds": STALL_SECONDS,
        "max_bytes_in_flight": 12 * MIB,
        "tile_bytes": MIB // 4,
        "max_request_bytes": MIB,
        "max_json_bytes": MIB // 2,
        "max_output_bytes": 64 * MIB,
        "residency": "virtual",
        "factor_bytes": 24 * MIB,
        "log_format": "json",
        "access_log": True,
    }
