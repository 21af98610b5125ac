"""Brings the factor store in line with the registry, once a second: drops what is not wanted, warms what is."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress

import numpy as np

from weightloom.engine.residency import Residencies
from weightloom.engine.tiles import TileStream
from weightloom.errors import NotFound, Unavailable
from weightloom.fabric import Backend, ModelSpec, VirtualFile
from weightloom.registry import ModelSummary, Registry

__all__ = ["HouseKeeping"]

CHECK_SECONDS = 1.0
NEVER = -1

log = logging.getLogger(__name__)


class HouseKeeping:
    """``read`` opens a stream of a file: warming a model is reading it and throwing it away. ``read_keys``: read API
    keys anew.
    """

    def __init__(
        self,
        registry: Registry,
        residencies: Residencies,
        backend: Backend,
        read: Callable[[VirtualFile, int, int], TileStream],
        read_keys: Callable[[], None],
    ) -> None:
        self._registry, self._residencies, self._backend, self._read = registry, residencies, backend, read
        self._read_keys = read_keys
        self._wake, self._seen, self._told = asyncio.Event(), NEVER, set[str]()
        self._is_gone = False

    def look_soon(self) -> None:
        """Look at the registry now, and not only within the next second."""
        self._seen = NEVER
        self._wake.set()

    async def run(self) -> None:
        """For ever. What goes wrong is logged, and tried again."""
        while True:
            done = True
            try:
                done = await self._reconcile()
                self._tell_of_registry(None)
            except Unavailable as error:
                self._seen = NEVER
                self._tell_of_registry(error)
            except Exception as error:
                self._seen = NEVER
                log.warning("the factor store could not follow the registry: %s", error, exc_info=True)
            if done:
                with suppress(TimeoutError):
                    async with asyncio.timeout(CHECK_SECONDS):
                        await self._wake.wait()
            self._wake.clear()

    async def _reconcile(self) -> bool:
        """One look at the registry. False where warming went on for so long that another look is due."""
        version = await asyncio.to_thread(self._registry.version)
        has_changed = version != self._seen
        await asyncio.to_thread(self._residencies.drop_unwanted, has_changed)
        if not has_changed:
            return True
        await asyncio.to_thread(self._read_keys)
        await asyncio.to_thread(self._registry.factors.let_go)
        self._seen = version
        if not await self._warm_all():
            self._seen = NEVER
        return self._seen != NEVER

    async def _warm_all(self) -> bool:
        """Warm the resident models that fit into the budget together. False where that is not finished yet."""
        until, room = asyncio.get_running_loop().time() + CHECK_SECONDS, self._residencies.room
        for summary in await asyncio.to_thread(self._registry.resident):
            try:
                spec = await asyncio.to_thread(self._registry.load, summary)
            except NotFound:  # deleted meanwhile
                continue
            needed = await asyncio.to_thread(self._residencies.sizes, spec)
            rest = [have - need for have, need in zip(room, needed, strict=True)]
            if min(rest) < 0:
                self._tell_of_no_room(spec)
                continue
            room = rest
            if not await self._warm(spec, summary, until):
                return False
        return True

    def _tell_of_registry(self, error: Unavailable | None) -> None:
        """Once when it goes, and once when it is back: it may be gone for hours."""
        if error is not None and not self._is_gone:
            log.warning("known models are served on without the registry: %s", error)
        if error is None and self._is_gone:
            log.info("the registry is back")
        self._is_gone = error is not None

    def _tell_of_no_room(self, spec: ModelSpec) -> None:
        if spec.digest not in self._told:
            self._told.add(spec.digest)
            log.warning(
                "model %s is to be resident, but does not fit into factor_bytes (or gpu_factor_bytes) with the others",
                spec.name,
            )

    async def _warm(self, spec: ModelSpec, summary: ModelSummary, until: float) -> bool:
        """Read the tensors whose T is not whole yet; the scheduler is fair, so others hardly notice. False: not all."""
        kept, names = await asyncio.to_thread(self._residencies.to_warm, summary, spec)
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
