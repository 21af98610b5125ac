"""The one way in: every front turns its requests into calls of this class, and its answers and errors back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass

import numpy as np

from weightloom.engine.buffers import TileBuffers
from weightloom.engine.calls import Call
from weightloom.engine.known_answer import check_known_answer
from weightloom.engine.lifecycle import Lifecycle
from weightloom.engine.limits import EngineLimits
from weightloom.engine.observer import Observer
from weightloom.engine.tiles import TileScheduler, TileStream
from weightloom.engine.turns import Turns
from weightloom.errors import LimitExceeded
from weightloom.fabric import Backend, ModelSpec, VirtualFile
from weightloom.registry import ModelSummary, Registry
from weightloom.requests import FabricateRequest

__all__ = ["Engine", "Fabrication"]

# Below this a request is made on the event loop itself: some 50 microseconds, less than handing it to a thread costs.
INLINE_BYTES, INLINE_WORK = 1 << 16, 1 << 15
# From here on, planning itself takes milliseconds and goes to a thread.
LARGE_PLAN_TENSORS, LARGE_PLAN_NUMBERS = 64, 1 << 16


@dataclass(frozen=True)
class Fabrication:
    """A file, and the bytes ``start`` … ``stop - 1`` of it that were asked for. Nothing is made until it is read."""

    file: VirtualFile
    start: int
    stop: int
    engine: Engine

    @property
    def size(self) -> int:
        """Bytes that ``tiles`` gives in all."""
        return self.stop - self.start

    def tiles(self) -> AsyncGenerator[memoryview, None]:
        """The bytes in order, in read-only views of at most ``tile_bytes``. Close it when it is not read to its end."""
        return self.engine.stream(self)

    async def send(self, write: Callable[[memoryview], Awaitable[None]], call: Call) -> None:
        """Pass the gate, then ``write`` tile after tile: once at least, and not before the first tile is made.

        Cancel the task that runs this when the client goes away. Raises Overloaded, DeadlineExceeded, Unavailable.
        """
        with self.engine.lifecycle.stream():
            await self._send(write)

    async def _send(self, write: Callable[[memoryview], Awaitable[None]]) -> None:
        async with aclosing(self.tiles()) as tiles:
            await write(await anext(tiles, memoryview(b"")))
            async for tile in tiles:
                await asyncio.sleep(0)  # write() mostly returns without yielding, and other requests would starve
                await write(tile)


class Engine:
    """Keeps a registry and worker threads; needs a running event loop for streams only."""

    def __init__(
        self, registry: Registry, backend: Backend, limits: EngineLimits, observer: Observer | None = None
    ) -> None:
        self.registry, self.backend, self.limits = registry, backend, limits
        self.observer = observer or Observer()
        self.lifecycle = Lifecycle()
        self._writes = Turns()
        self._scheduler = TileScheduler(limits.threads)
        self._buffers = TileBuffers(limits.tile_bytes, kept=limits.threads + limits.tile_window)

    def call(self, front: str, name: str, request_id: str = "", timeout: float | None = None) -> Call:
        """The context in which a front answers a client's call (see ``Call``)."""
        return Call(self.observer.call_ended, front, name, request_id, timeout)

    async def create_model(self, spec: ModelSpec) -> tuple[ModelSummary, bool]:
        """Register a model; False where the same one was there already. Raises Conflict, Unavailable."""
        return await self._writes.run(self.registry.create, spec)

    async def get_model(self, name_or_digest: str) -> tuple[ModelSummary, ModelSpec]:
        """A registered model with its spec. Raises NotFound, Unavailable."""
        summary = await asyncio.to_thread(self.registry.find, name_or_digest)
        return summary, await asyncio.to_thread(self.registry.load, summary)

    async def list_models(self, after: str, limit: int) -> list[ModelSummary]:
        """Up to ``limit`` models behind the name ``after``. Raises Unavailable."""
        return await asyncio.to_thread(self.registry.page, after, limit)

    async def delete_model(self, name_or_digest: str) -> None:
        """Forget a model; streams of it that run go on. Raises NotFound, Unavailable."""
        await self._writes.run(self.registry.delete, name_or_digest)

    async def fabricate(self, request: FabricateRequest) -> Fabrication:
        """Check a request whole and lay out its file; the first byte is made when the result is read.

        Raises InvalidInput, NotFound, LimitExceeded, Unavailable; reading the result raises none of these.
        """
        model = self._find(request)
        numbers = sum(w.size for w in request.w.values())
        tensors = model.tensors if isinstance(model, ModelSummary) else len(model.tensors)
        if tensors > LARGE_PLAN_TENSORS or numbers > LARGE_PLAN_NUMBERS:
            return await asyncio.to_thread(self._plan, request, model)
        return self._plan(request, model)

    def plan(self, request: FabricateRequest) -> Fabrication:
        """``fabricate`` for callers without an event loop."""
        return self._plan(request, self._find(request))

    def _find(self, request: FabricateRequest) -> ModelSpec | ModelSummary:
        """One indexed read of cached pages takes some 10 microseconds: less than a thread would."""
        return request.model if isinstance(request.model, ModelSpec) else self.registry.find(request.model)

    def _plan(self, request: FabricateRequest, model: ModelSpec | ModelSummary) -> Fabrication:
        file = VirtualFile(
            self.registry.load(model) if isinstance(model, ModelSummary) else model,
            request.w,
            dtype=request.dtype,
            tensors=request.tensors,
            rows=request.rows,
            backend=self.backend,
        )
        length = request.length if request.length is not None else max(0, file.size - request.offset)
        file.layout.check_range(request.offset, length)
        if length > self.limits.max_output_bytes:
            expected = f"at most {self.limits.max_output_bytes} (setting max_output_bytes); ask for part of it"
            raise LimitExceeded.at("output bytes", length, expected, code="output_too_large")
        # Both are kept: computed here, where a large file does not hold up the event loop.
        file.etag, file.layout.work  # noqa: B018
        return Fabrication(file, request.offset, request.offset + length, self)

    async def stream(self, fabrication: Fabrication) -> AsyncGenerator[memoryview, None]:
        """The tiles of a fabrication, made ahead of the reader by a bounded window."""
        file = fabrication.file
        if fabrication.size <= INLINE_BYTES and file.layout.work <= INLINE_WORK:
            out = np.empty(fabrication.size, np.uint8)
            file.read_into(fabrication.start, out)
            yield out.data.toreadonly()
            return
        tiles = TileStream(
            file,
            fabrication.start,
            fabrication.stop,
            scheduler=self._scheduler,
            buffers=self._buffers,
            tile_bytes=self.limits.tile_bytes,
            window=self.limits.tile_window,
        )
        try:
            async for tile in tiles:
                yield tile
        finally:
            tiles.close()

    def check_ready(self) -> dict[str, str]:
        """Raise Unavailable, saying why, unless a known answer comes out right, the registry can be read, and no stop
        is near. What does not work but is not needed to fabricate is returned: {"registry": "cannot be written: …"}.
        """
        self.lifecycle.check_ready()
        check_known_answer(self.backend)
        self.registry.ping()
        problem = self.registry.write_problem()
        return {"registry": problem} if problem else {}

    def close(self) -> None:
        """Stop the workers and let go of the registry."""
        self._scheduler.close()
        self.registry.close()
