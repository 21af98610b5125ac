"""The factor store: frozen factors that are kept in memory, within a budget, for all requests to share.

T is *virtual* (drawn for each pass and forgotten), *resident* (kept, least recently used out first) or *auto*: kept
from its second request on, where it does not push out a T that is asked for more often. A resident T is filled by the
passes that draw it anyway, so it costs the first request almost nothing and nobody waits for it. P, Q and S are small
and always kept, within a budget of their own. All bits are the same either way.
"""

from __future__ import annotations

import itertools
import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from enum import StrEnum
from functools import partial
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt

from weightloom.engine.observer import Observer
from weightloom.engine.shelf import Shelf
from weightloom.fabric.device import Device
from weightloom.fabric.factors import NOTHING_KEPT, Factors, ResidentT
from weightloom.fabric.imported import Blob

__all__ = ["FactorStore", "FactorView", "Residency"]

log = logging.getLogger(__name__)

REMEMBERED = 1 << 14  # factors whose last request is remembered though they are not kept

F32 = npt.NDArray[np.float32]
PQS = tuple[F32, F32, F32]


class Residency(StrEnum):
    """What may become of a model's T."""

    VIRTUAL = "virtual"
    RESIDENT = "resident"
    AUTO = "auto"


class FactorStore:
    """Keeps T's in the device's memories, each within its budget, and P, Q and S. Safe to use from many threads.

    t_budget: bytes for T's in a memory that has no budget of its own. pqs_budget: bytes of P's, Q's and S's.
    imported: where factors come from that are not drawn; they are mapped files, and no part of the budgets.
    """

    def __init__(
        self,
        device: Device,
        t_budget: int,
        pqs_budget: int,
        observer: Observer,
        imported: Callable[[Blob], F32 | None] = NOTHING_KEPT.imported,
    ) -> None:
        self._device, self.imported = device, imported
        self.budgets = [t_budget if memory.budget is None else memory.budget for memory in device.memories]
        self._t: list[Shelf[ResidentT]] = [
            Shelf("T" if memory.name == "host" else f"T {memory.name}", budget, observer)
            for memory, budget in zip(device.memories, self.budgets, strict=True)
        ]
        device.on_full = self._give_up_oldest
        self._pqs: Shelf[_Once[PQS]] = Shelf("PQS", pqs_budget, observer)
        self._last_use: OrderedDict[Hashable, int] = OrderedDict()  # of T's that are not kept
        self._lock, self._now = threading.Lock(), itertools.count(1).__next__

    def view(self, residency: Residency) -> FactorView:
        """The store as requests for a model of this residency see it."""
        return FactorView(self, residency)

    def expect(self, factors: Factors, residency: Residency) -> None:
        """A request will use these factors: keep their T from now on, or not."""
        now = self._now()
        if residency is Residency.VIRTUAL or self._shelf(factors).use(factors.key, now) is not None:
            return
        with self._lock:
            last_use = self._last_use.pop(factors.key, None)
            self._last_use[factors.key] = now
            if len(self._last_use) > REMEMBERED:
                self._last_use.popitem(last=False)
        if residency is Residency.RESIDENT:
            self._keep(factors, now, None)
        elif last_use is not None:  # its second request, and more recent than the last one of whatever must go for it
            self._keep(factors, now, last_use)

    def _keep(self, factors: Factors, now: int, only_over: int | None) -> None:
        size, place = ResidentT.size_of(factors), self._device.place_of(factors)
        new_t = partial(self._device.memories[place].new_t, factors)
        while True:
            try:
                self._t[place].add(factors.key, size, now, new_t, only_over)
                return
            except (OSError, MemoryError) as error:
                if only_over is None and self._t[place].drop_oldest():
                    continue
                log.warning("T of %s stays virtual: the system gives no %d bytes (%s)", factors.tensor, size, error)
                return

    def _shelf(self, factors: Factors) -> Shelf[ResidentT]:
        return self._t[self._device.place_of(factors)]

    def _give_up_oldest(self, place: int) -> bool:
        """The device has no memory left for the work itself: see ``OnFull``."""
        return self._t[place].drop_oldest()

    def t(self, factors: Factors) -> ResidentT | None:
        """T, if it is kept now. Hold it for one pass and no longer, so that its memory can be given back."""
        return self._shelf(factors).get(factors.key)

    def pqs(self, factors: Factors) -> PQS | None:
        """P, Q and S, drawn once however many ask at the same time; None where they are larger than the budget."""
        key = factors.seed, factors.tensor, factors.l, factors.r, factors.hidden_dim
        now = self._now()
        found = self._pqs.use(key, now)
        if found is None:
            found = self._pqs.add(key, 4 * sum(factors.pqs_sizes), now, lambda: _Once(self._draw, factors))
        return None if found is None else found.get()

    def _draw(self, factors: Factors) -> PQS:
        streams = zip((factors.p, factors.q, factors.s), factors.pqs_sizes, strict=True)
        p, q, s = (self._device.backend.normals(stream, 0, size) for stream, size in streams)
        return p, q, s

    def resident_bytes(self, factors: Factors) -> int:
        """Bytes of T that were drawn and kept by now: 0 where it is virtual."""
        t = self.t(factors)
        return 0 if t is None else t.drawn_bytes

    def drop(self, factors: Factors) -> None:
        """Give up T; its memory goes back as soon as passes that use it have ended."""
        self._shelf(factors).drop(factors.key)

    def clear(self) -> None:
        """Give up everything."""
        for shelf in self._t:
            shelf.clear()
        self._pqs.clear()


class FactorView:
    """The store as the requests for a model see it. ``become`` holds for those that run, too."""

    def __init__(self, store: FactorStore, residency: Residency) -> None:
        self._store, self.residency = store, residency
        self._lock = threading.Lock()

    def become(self, residency: Residency) -> None:
        """When this returns, nothing is kept any more for a residency that was."""
        with self._lock:
            self.residency = residency

    def expect(self, factors: Factors) -> None:
        """See ``KeptFactors``."""
        with self._lock:
            self._store.expect(factors, self.residency)

    def t(self, factors: Factors) -> ResidentT | None:
        """See ``KeptFactors``."""
        return None if self.residency is Residency.VIRTUAL else self._store.t(factors)

    def pqs(self, factors: Factors) -> PQS | None:
        """See ``KeptFactors``."""
        return self._store.pqs(factors)

    def imported(self, blob: Blob) -> F32 | None:
        """See ``KeptFactors``."""
        return self._store.imported(blob)


V = TypeVar("V")


class _Once(Generic[V]):
    """A value that is made by the first who asks, while the others wait."""

    def __init__(self, make: Callable[[Factors], V], factors: Factors) -> None:
        self._make, self._factors, self._lock = make, factors, threading.Lock()
        self._value: V | None = None

    def get(self) -> V:
        """The value."""
        if self._value is None:
            with self._lock:
                if self._value is None:
                    self._value = self._make(self._factors)
        return self._value
