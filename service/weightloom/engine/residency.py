"""Which models' T's are kept: by the server's setting, or by what the registry says of a model.

The registry holds what is wanted, so that it survives a restart and reaches every worker process; each brings its own
memory in line with it (``housekeeping.py``).
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass

from weightloom.engine.factors import FactorStore, FactorView, Residency
from weightloom.engine.limits import EngineLimits
from weightloom.engine.observer import Observer
from weightloom.errors import NotFound
from weightloom.fabric import ModelSpec
from weightloom.fabric.device import Device
from weightloom.fabric.factors import Factors, KeptFactors, ResidentT
from weightloom.registry import ModelSummary, Registry

__all__ = ["Residencies", "ResidencyStatus"]

FOLLOWED = 4096  # registered models whose deletion (or change of mind) gives their memory back


@dataclass(frozen=True)
class ResidencyStatus:
    """residency: of the model. resident_bytes: of its T's, drawn in this process by now; t_bytes: of all of them."""

    residency: Residency
    resident_bytes: int
    t_bytes: int


@dataclass(frozen=True)
class _Followed:
    spec: ModelSpec
    view: FactorView


class Residencies:
    """The factor store, as models see it. Safe to use from many threads."""

    def __init__(self, registry: Registry, device: Device, limits: EngineLimits, observer: Observer) -> None:
        self._registry, self._default = registry, limits.residency
        budgets = limits.factor_bytes, limits.small_factor_bytes
        self._store, self._device = FactorStore(device, *budgets, observer, registry.factors.open), device
        self._views = {residency: self._store.view(residency) for residency in Residency}
        self._followed: OrderedDict[str, _Followed] = OrderedDict()
        self._new: set[str] = set()
        self._lock = threading.Lock()

    def kept_for(self, spec: ModelSpec, summary: ModelSummary | None) -> KeptFactors:
        """The factor store as requests for this model see it; ``summary`` is None where it is not registered."""
        residency = self._residency_of(summary)
        if summary is None or residency is Residency.VIRTUAL:
            return self._views[residency]
        return self._follow(spec, residency)

    def _follow(self, spec: ModelSpec, residency: Residency) -> FactorView:
        """A view of the model's own, which changes beneath its requests when the registry says so.

        ``residency`` may be old already: what is new here is looked up once more at the next round.
        """
        with self._lock:
            followed = self._followed.get(spec.digest)
            if followed is None:
                followed = self._followed[spec.digest] = _Followed(spec, self._store.view(residency))
                self._new.add(spec.digest)
            self._followed.move_to_end(spec.digest)
            if len(self._followed) > FOLLOWED:
                self._followed.popitem(last=False)
            if followed.view.residency is not residency:
                followed.view.become(residency)
        return followed.view

    def status(self, summary: ModelSummary, spec: ModelSpec) -> ResidencyStatus:
        """What is kept of a registered model."""
        factors = list(_factors_of(spec))
        resident = sum(self._store.resident_bytes(one) for one in factors)
        return ResidencyStatus(self._residency_of(summary), resident, sum(map(ResidentT.size_of, factors)))

    @property
    def room(self) -> list[int]:
        """Bytes for T's in each of the device's memories."""
        return list(self._store.budgets)

    def sizes(self, spec: ModelSpec) -> list[int]:
        """Bytes of a model's T's in each of the device's memories."""
        sizes = [0] * len(self._store.budgets)
        for factors in _factors_of(spec):
            sizes[self._device.place_of(factors)] += ResidentT.size_of(factors)
        return sizes

    def drop_unwanted(self, all_of_them: bool) -> None:
        """Unload what the registry no longer has, or wants virtual: of what is new here, or of all that is followed."""
        with self._lock:
            suspects = list(self._followed if all_of_them else self._new)
            self._new.clear()
        for digest in suspects:
            if self._is_unwanted(digest):
                self._unload(digest)

    def _is_unwanted(self, digest: str) -> bool:
        try:
            return self._residency_of(self._registry.find(digest)) is Residency.VIRTUAL
        except NotFound:
            return True

    def _unload(self, digest: str) -> None:
        with self._lock:
            followed = self._followed.pop(digest, None)
            if followed is None:
                return
            followed.view.become(Residency.VIRTUAL)  # streams that run, or wait, must not bring it back
        for factors in _factors_of(followed.spec):
            self._store.drop(factors)

    def to_warm(self, summary: ModelSummary, spec: ModelSpec) -> tuple[KeptFactors, list[str]]:
        """Tensors whose T is kept from now on, but not whole yet, and the view to make them whole through."""
        kept, names = self.kept_for(spec, summary), []
        for factors in _factors_of(spec):
            kept.expect(factors)
            t = kept.t(factors)
            if t is not None and not t.is_whole:
                names.append(factors.tensor)
        return kept, names

    def _residency_of(self, summary: ModelSummary | None) -> Residency:
        return Residency(summary.residency) if summary is not None and summary.residency else self._default

    def close(self) -> None:
        """Give all memory back."""
        self._store.clear()


def _factors_of(spec: ModelSpec) -> Iterator[Factors]:
    for tensor in spec.tensors:
        factors = tensor.factors(spec.seed)
        if factors is not None:
            yield factors
