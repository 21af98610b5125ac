"""Which models' T's are kept: by the server's setting, or by what the registry says of a model.

The registry holds what is wanted, so that it survives a restart and reaches every worker process; each worker brings
its own memory in line with it, within a second.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from weightloom.engine.factors import FactorStore, FactorView, Residency
from weightloom.engine.limits import EngineLimits
from weightloom.engine.observer import Observer
from weightloom.engine.tiles import TileStream
from weightloom.errors import NotFound, Unavailable
from weightloom.fabric import Backend, ModelSpec, VirtualFile
from weightloom.fabric.factors import Factors, KeptFactors, ResidentT
from weightloom.registry import ModelSummary, Registry

__all__ = ["Residencies", "ResidencyStatus"]

CHECK_SECONDS = 1.0
NEVER = -1
FOLLOWED = 4096  # registered models whose deletion (or change of mind) gives their memory back

log = logging.getLogger(__name__)


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
    """``read`` opens a stream of a file; warming a model is reading it and throwing it away."""

    def __init__(
        self,
        registry: Registry,
        backend: Backend,
        limits: EngineLimits,
        observer: Observer,
        read: Callable[[VirtualFile, int, int], TileStream],
    ) -> None:
        self._registry, self._backend, self._default, self._read = registry, backend, limits.residency, read
        self._budget = limits.factor_bytes if backend.READS_T else 0
        self._store = FactorStore(backend, self._budget, limits.small_factor_bytes, observer)
        self._views = {residency: self._store.view(residency) for residency in Residency}
        self._followed: OrderedDict[str, _Followed] = OrderedDict()
        self._new: set[str] = set()
        self._lock = threading.Lock()
        self._wake, self._seen, self._told = asyncio.Event(), NEVER, ""

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

    def reconcile_soon(self) -> None:
        """Look at the registry now, and not only within the next second."""
        self._seen = NEVER
        self._wake.set()

    async def keep_house(self) -> None:
        """Bring memory in line with the registry for ever: warm what is to be resident, drop what is not."""
        while True:
            done = True
            try:
                done = await self._reconcile()
            except Unavailable as error:
                self._seen = NEVER
                log.warning("the factor store cannot follow the registry: %s", error)
            if done:
                with suppress(TimeoutError):
                    async with asyncio.timeout(CHECK_SECONDS):
                        await self._wake.wait()
            self._wake.clear()

    async def _reconcile(self) -> bool:
        """One look at the registry. False where warming went on for so long that another look is due."""
        version = await asyncio.to_thread(self._registry.version)
        has_changed = version != self._seen
        for digest in self._suspects(has_changed):
            if await asyncio.to_thread(self._is_unwanted, digest):
                await asyncio.to_thread(self._unload, digest)
        if not has_changed:
            return True
        self._seen = version
        if not await self._warm_all():
            self._seen = NEVER
        return self._seen != NEVER

    async def _warm_all(self) -> bool:
        """Warm the resident models that fit into the budget together. False where that is not finished yet."""
        until, room = asyncio.get_running_loop().time() + CHECK_SECONDS, self._budget
        for summary in await asyncio.to_thread(self._registry.resident):
            try:
                spec = await asyncio.to_thread(self._registry.load, summary)
            except NotFound:  # deleted meanwhile
                continue
            room -= (await asyncio.to_thread(self.status, summary, spec)).t_bytes
            if room < 0:
                self._tell_of_no_room(spec)
                return True
            if not await self._warm(spec, summary, until):
                return False
        return True

    def _suspects(self, all_of_them: bool) -> list[str]:
        with self._lock:
            suspects = list(self._followed if all_of_them else self._new)
            self._new.clear()
        return suspects

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

    def _tell_of_no_room(self, spec: ModelSpec) -> None:
        if spec.digest != self._told:
            self._told = spec.digest
            log.warning("model %s is to be resident, but does not fit into factor_bytes with the others", spec.name)

    async def _warm(self, spec: ModelSpec, summary: ModelSummary, until: float) -> bool:
        """Read the tensors whose T is not whole yet; the scheduler is fair, so others hardly notice. False: not all."""
        kept = self.kept_for(spec, summary)
        names = await asyncio.to_thread(_to_warm, spec, kept)
        if not names:
            return True
        w = {name: np.zeros(spec.by_name[name].w_length or 0, np.float32) for name in names}
        file = VirtualFile(spec, w, tensors=names, backend=self._backend, kept=kept)
        tiles = self._read(file, 0, file.size)
        try:
            async for _ in tiles:
                if self._wake.is_set() or asyncio.get_running_loop().time() > until:
                    return False
        finally:
            tiles.close()
        return True

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


def _to_warm(spec: ModelSpec, kept: KeptFactors) -> list[str]:
    """Tensors whose T is kept from now on, but not whole yet."""
    names = []
    for factors in _factors_of(spec):
        kept.expect(factors)
        t = kept.t(factors)
        if t is not None and not t.is_whole:
            names.append(factors.tensor)
    return names
