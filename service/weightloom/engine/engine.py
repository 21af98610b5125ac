"""The one way in: every front turns its requests into calls of this class, and its answers and errors back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import ParamSpec, TypeVar

import numpy as np

from weightloom.engine.admission import Admission
from weightloom.engine.buffers import TileBuffers
from weightloom.engine.calls import Call
from weightloom.engine.delivery import deliver, deliver_one
from weightloom.engine.factors import Residency
from weightloom.engine.housekeeping import HouseKeeping
from weightloom.engine.jobs import Jobs
from weightloom.engine.keys import Keys
from weightloom.engine.known_answer import check_known_answer
from weightloom.engine.lifecycle import Lifecycle
from weightloom.engine.limits import EngineLimits
from weightloom.engine.observer import Observer
from weightloom.engine.planner import Plan, Planner
from weightloom.engine.residency import Residencies
from weightloom.engine.scheduler import TileScheduler
from weightloom.engine.tiles import TileStream
from weightloom.engine.turns import Turns
from weightloom.engine.uploads import Uploads
from weightloom.errors import Unavailable
from weightloom.fabric import ModelSpec, VirtualFile
from weightloom.fabric.device import Device
from weightloom.registry import ModelSummary, Registry
from weightloom.requests import FabricateRequest

__all__ = ["Engine", "Fabrication"]

PLANNING_THREADS = 2
LOOKUP_THREADS = 4  # of a registry that is not on this machine: they wait, and compute nothing
KEPT_TILES = 32  # blocks of memory that lie ready for reuse while there is something to do

P = ParamSpec("P")
R = TypeVar("R")
Write = Callable[[memoryview], Awaitable[None]]


@dataclass(slots=True, eq=False)
class Fabrication:
    """A file, and the bytes of it that were asked for. Nothing is made until it is read."""

    file: VirtualFile
    plan: Plan
    engine: Engine

    @property
    def start(self) -> int:
        """The first byte."""
        return self.plan.start

    @property
    def stop(self) -> int:
        """Behind the last byte."""
        return self.plan.stop

    @property
    def size(self) -> int:
        """Bytes that ``tiles`` gives in all."""
        return self.plan.stop - self.plan.start

    @property
    def is_small(self) -> bool:
        """Whether it is made on the spot, at once."""
        return self.plan.is_small

    def tiles(self) -> AsyncGenerator[memoryview, None]:
        """The bytes in order, in read-only views of at most ``tile_bytes``. Close it when it is not read to its end.

        This passes by the gate: it is for programs that read for themselves. Fronts use ``send``.
        """
        return self.engine.stream(self)

    async def send(self, write: Write, call: Call) -> None:
        """Pass the gate, then ``write`` tile after tile: once at least, and not before the first tile is made.

        Cancel the task that runs this when the client goes away. Raises Overloaded, DeadlineExceeded, Unavailable.
        """
        await self.engine.send(self, write, call)


class Engine:
    """Keeps a registry and worker threads; needs a running event loop for streams only."""

    def __init__(
        self, registry: Registry, device: Device, limits: EngineLimits, observer: Observer | None = None
    ) -> None:
        self.registry, self.device, self.backend, self.limits = registry, device, device.backend, limits
        self.observer = observer or Observer()
        self.admission = Admission(limits, self.observer)
        self.lifecycle = Lifecycle(self.admission)
        self._writes = Turns()
        self.keys = Keys(registry, limits.auth)
        self.uploads = Uploads(registry, self._writes)
        self._planning = Jobs(self.admission, PLANNING_THREADS, "planner")
        self._lookups = Jobs(self.admission, LOOKUP_THREADS, "lookup")
        kept = max(KEPT_TILES, limits.threads + limits.tile_window)
        self._buffers = TileBuffers(limits.tile.bytes, kept, device.host_block)
        self._scheduler = TileScheduler(limits.threads, self._buffers, self.observer)
        self.residencies = Residencies(registry, device, limits, self.observer)
        self.housekeeping = HouseKeeping(registry, self.residencies, self.backend, self._read, self.keys.refresh)
        self._planner = Planner(registry, self.backend, limits, self.residencies.kept_for)

    def call(
        self, front: str, name: str, request_id: str = "", timeout: float | None = None, traceparent: str = ""
    ) -> Call:
        """The context in which a front answers a client's call (see ``Call``)."""
        return Call(self._call_ended, front, name, request_id, timeout, traceparent)

    async def create_model(self, spec: ModelSpec) -> tuple[ModelSummary, bool]:
        """Register a model; False where the same one was there already. Raises Conflict, InvalidSpec, Unavailable."""
        return await self._writes.run(self.registry.create, spec)

    async def get_model(self, name_or_digest: str) -> tuple[ModelSummary, ModelSpec]:
        """A registered model with its spec. Raises NotFound, Unavailable."""
        summary = await asyncio.to_thread(self.registry.find, name_or_digest)
        return summary, await asyncio.to_thread(self.registry.load, summary)

    async def list_models(self, after: str, limit: int) -> list[ModelSummary]:
        """Up to ``limit`` models behind the name ``after``. Raises Unavailable."""
        return await asyncio.to_thread(self.registry.page, after, limit)

    async def set_residency(self, name_or_digest: str, residency: Residency | None) -> tuple[ModelSummary, ModelSpec]:
        """Say what becomes of a model's T, for all workers and from now on. Raises NotFound, Unavailable."""
        await self._writes.run(self.registry.set_residency, name_or_digest, residency)
        self.housekeeping.look_soon()
        return await self.get_model(name_or_digest)

    async def delete_model(self, name_or_digest: str) -> None:
        """Forget a model; streams of it that run go on. Raises NotFound, Unavailable."""
        await self._writes.run(self.registry.delete, name_or_digest)
        self.housekeeping.look_soon()

    async def fabricate(self, request: FabricateRequest) -> Fabrication:
        """Check a request whole and lay out its file; the first byte is made when the result is read.

        Raises InvalidInput, NotFound, LimitExceeded, Unavailable; reading the result raises none of these.
        """
        model = self._planner.known(request)
        if model is None:
            model = await self._lookups.run(self._planner.find, request)
        if self._planner.is_large(request, model):
            return Fabrication(*await self.work(self._planner.plan, request, model), self)
        return Fabrication(*self._planner.plan(request, model), self)

    async def work(self, job: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """What ``job`` gives, made on one of a few threads of its own: parsing and planning that take milliseconds.

        Readiness and the registry have other threads. Raises Overloaded where as many wait as may wait at the gate.
        """
        return await self._planning.run(job, *args, **kwargs)

    def plan(self, request: FabricateRequest) -> Fabrication:
        """``fabricate`` for callers without an event loop."""
        return Fabrication(*self._planner.plan(request, self._planner.find(request)), self)

    async def send(self, fabrication: Fabrication, write: Write, call: Call) -> None:
        """See ``Fabrication.send``."""
        call.model = fabrication.file.model.name
        self.lifecycle.check_accepting()
        try:
            await (self._send_small if fabrication.is_small else self._send_stream)(fabrication, write, call)
        finally:
            header = max(0, len(fabrication.file.header) - fabrication.start)
            call.elements = max(0, call.sent_bytes - header) // fabrication.file.dtype.itemsize

    async def _send_small(self, fabrication: Fabrication, write: Write, call: Call) -> None:
        began = time.perf_counter()
        tile = _made_at_once(fabrication)
        call.compute = time.perf_counter() - began
        await deliver_one(tile, write, call, self.limits.stall_seconds)

    async def _send_stream(self, fabrication: Fabrication, write: Write, call: Call) -> None:
        window = self.limits.tile.bytes * self.limits.tile_window
        await self.admission.enter(call, min(fabrication.size, window))
        async with aclosing(self.stream(fabrication, call)) as tiles:
            await deliver(tiles, write, call, self.limits.stall_seconds)

    async def stream(self, fabrication: Fabrication, call: Call | None = None) -> AsyncGenerator[memoryview, None]:
        """The tiles of a fabrication, made ahead of the reader by a bounded window."""
        if fabrication.is_small:
            yield _made_at_once(fabrication)
            return
        tiles = self._read(fabrication.file, fabrication.start, fabrication.stop)
        try:
            async for tile in tiles:
                yield tile
        finally:
            tiles.close()
            if call is not None:
                call.queue, call.compute = call.queue + tiles.queue, call.compute + tiles.compute

    def _read(self, file: VirtualFile, start: int, stop: int) -> TileStream:
        limits = self.limits
        return TileStream(file, start, stop, scheduler=self._scheduler, tile=limits.tile, window=limits.tile_window)

    def _call_ended(self, call: Call) -> None:
        self.admission.leave(call)
        self.keys.charge(call)
        self.observer.call_ended(call)

    def check_ready(self, *, without_registry: bool = False) -> dict[str, str]:
        """Raise Unavailable, saying why, unless a known answer comes out right, the registry can be read, and no stop
        is near. What does not work but is not needed to fabricate is returned: {"registry": "cannot be written: …"}.

        without_registry: one that cannot be read is no reason either; known models are served on.
        """
        self.lifecycle.check_ready()
        self.check_device()
        problem = self._registry_problem(without_registry)
        return self.device.problems() | ({"registry": problem} if problem else {})

    def _registry_problem(self, tell_all: bool) -> str | None:
        try:
            self.registry.ping()
        except Unavailable as error:
            if not tell_all:
                raise
            return str(error)
        return self.registry.write_problem()

    def check_device(self) -> None:
        """Raise Unavailable unless a known answer comes out right: what a restart may mend, and waiting does not."""
        check_known_answer(self.device)

    def close(self) -> None:
        """Stop the workers, free the factors and let go of the registry."""
        self._planning.close()
        self._lookups.close()
        self._scheduler.close()
        self.residencies.close()
        self.registry.close()


def _made_at_once(fabrication: Fabrication) -> memoryview:
    out = np.empty(fabrication.size, np.uint8)
    fabrication.file.read_into(fabrication.start, out)
    return out.data.toreadonly()
