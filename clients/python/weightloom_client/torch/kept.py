"""Factors that a training process keeps between steps: P, Q, S and those T that fit into a budget of bytes."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from weightloom.fabric.backend import Backend, load_backend
from weightloom.fabric.factors import Factors, ResidentT
from weightloom.fabric.imported import Blob

__all__ = ["KEPT", "FactorCache", "set_keep_t_bytes"]

DEFAULT_BYTES = 64 << 20
STALE = 1024  # look-ups without a use after which an entry makes room, and
STALE_PER_KEY = 8  # so many for each key in use: more than one step of training makes

F32 = npt.NDArray[np.float32]


@dataclass(slots=True)
class _Entry:
    value: Any
    nbytes: int


class FactorCache:
    """A ``KeptFactors`` of at most ``keep_t_bytes`` bytes for all its T, P, Q and S together.

    A training step goes through its layers in turn. Were the least recently used one thrown out for each newcomer, then
    of a net that is a little too large nothing would ever be found; so what is in use stays, and only what nobody asked
    for in the last look-ups (1024, more for nets of many layers) makes room, the oldest first. Safe to use from many
    threads.
    """

    def __init__(self, keep_t_bytes: int = DEFAULT_BYTES, backend: Backend | None = None) -> None:
        self.backend = backend or load_backend()
        self._budget, self._held, self._tick = keep_t_bytes, 0, 0
        self._in_use: OrderedDict[Hashable, int] = OrderedDict()  # kept or not: when it was asked for, oldest first
        self._entries: OrderedDict[Hashable, _Entry] = OrderedDict()  # least recently used first
        self._lock = threading.Lock()

    @property
    def held_bytes(self) -> int:
        """Bytes of all that is kept now."""
        return self._held

    def limit(self, keep_t_bytes: int) -> None:
        """Set the budget; what does not fit any more goes, the least recently used first."""
        with self._lock:
            self._budget = keep_t_bytes
            while self._held > keep_t_bytes:
                self._drop_oldest()

    def expect(self, factors: Factors) -> None:
        """Decide whether T is kept from now on. A backend that does not read a kept T keeps none."""
        if self.backend.READS_T:
            self._get(("T", factors.key), ResidentT.size_of(factors), lambda: ResidentT(factors))

    def t(self, factors: Factors) -> ResidentT | None:
        """T, if it is kept; passes fill it as they draw it."""
        with self._lock:
            entry = self._entries.get(("T", factors.key))
            return None if entry is None else entry.value

    def pqs(self, factors: Factors) -> tuple[F32, F32, F32] | None:
        """P, Q and S in row-major order, each float32 (elements,); None where they do not fit."""
        key = ("PQS", *factors.numbers.tolist(), factors.r, *factors.pqs_sizes)
        found: tuple[F32, F32, F32] | None = self._get(key, 4 * sum(factors.pqs_sizes), lambda: self.draw_pqs(factors))
        return found

    def imported(self, blob: Blob) -> None:
        """None: what is trained here draws its factors."""

    def draw_pqs(self, factors: Factors) -> tuple[F32, F32, F32]:
        """P, Q and S as they come from their streams, each float32 (elements,)."""
        streams = (factors.p, factors.q, factors.s)
        p, q, s = (self.backend.normals(at, 0, n) for at, n in zip(streams, factors.pqs_sizes, strict=True))
        return p, q, s

    def _get(self, key: Hashable, nbytes: int, make: Callable[[], Any]) -> Any:
        with self._lock:
            self._note(key)
            if key not in self._entries and self._make_room(nbytes):
                self._entries[key] = _Entry(make(), nbytes)
                self._held += nbytes
            entry = self._entries.get(key)
            if entry is None:
                return None
            self._entries.move_to_end(key)
            return entry.value

    def _note(self, key: Hashable) -> None:
        """Count the look-up, and forget the keys that are not in use any more."""
        self._tick += 1
        self._in_use[key] = self._tick
        self._in_use.move_to_end(key)
        while self._tick - next(iter(self._in_use.values())) >= max(STALE, STALE_PER_KEY * len(self._in_use)):
            self._in_use.popitem(last=False)

    def _make_room(self, nbytes: int) -> bool:
        if nbytes > self._budget:
            return False
        while self._held + nbytes > self._budget:
            if next(iter(self._entries)) in self._in_use:
                return False
            self._drop_oldest()
        return True

    def _drop_oldest(self) -> None:
        _, entry = self._entries.popitem(last=False)
        self._held -= entry.nbytes


KEPT = FactorCache()
"""What this process keeps."""


def set_keep_t_bytes(keep_t_bytes: int) -> None:
    """Let this process keep at most so many bytes of factors (64 MiB if never called; 0 keeps nothing).

    A layer's T takes 4 r numel bytes. Kept or not, the bits are the same; a T that is kept is not drawn anew by each
    forward and each backward.
    """
    KEPT.limit(keep_t_bytes)
