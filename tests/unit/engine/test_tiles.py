"""The scheduler is fair and makes together what it can; streams keep their window; what is closed makes nothing."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import aclosing
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from weightloom.engine import Engine, EngineLimits, Observer
from weightloom.engine.buffers import TileBuffers
from weightloom.engine.factors import Residency
from weightloom.engine.scheduler import CATCH_UP_TILES, CATCH_UP_TURNS, PASS_TILES, TileScheduler
from weightloom.engine.tiles import TileStream
from weightloom.fabric import DType, ModelSpec, VirtualFile, load_backend
from weightloom.fabric.device import Cpu
from weightloom.fabric.layout import TileSize
from weightloom.registry import SqliteRegistry
from weightloom.requests import FabricateRequest

SECONDS = 60  # for what is waited for, and for which a failed test lets a worker wait


class PassCounter(Observer):
    def __init__(self) -> None:
        self.passes: list[int] = []

    def pass_made(self, tiles: int) -> None:
        self.passes.append(tiles)


def new_scheduler(observer: Observer | None = None) -> TileScheduler:
    return TileScheduler(1, TileBuffers(4096, kept=2), observer or Observer())


@pytest.fixture
def scheduler() -> Iterator[TileScheduler]:
    made = new_scheduler()
    yield made
    made.close()


class FakeTile:
    """A tile whose making can be watched and held up; it has no bytes."""

    def __init__(self, stream: str, key: Any = None, log: list[str] | None = None) -> None:
        self.stream, self.key, self.log = stream, key if isinstance(key, tuple) else (key or id(self), 0, 1), log
        self.start = self.stop = 0
        self.file: Any = SimpleNamespace(pieces=lambda start, out: [])
        self.begun, self.gate, self.ended = threading.Event(), threading.Event(), threading.Event()
        self.gate.set()

    def begin(self) -> None:
        self.begun.set()
        self.gate.wait(SECONDS)
        if self.log is not None:
            self.log.append(self.stream)

    def deliver(self, data: Any, seconds: float) -> None:
        self.ended.set()

    def fail(self, error: BaseException) -> None:
        raise AssertionError from error


def hold_up(scheduler: TileScheduler) -> FakeTile:
    """Keep the only worker busy until the tile's gate is set."""
    first = FakeTile("first")
    first.gate.clear()
    scheduler.submit(first)
    assert first.begun.wait(SECONDS)
    return first


class SlowFile:
    """Sixteen-byte tiles that are made only when a permit is given."""

    def __init__(self, tiles: int = 100, *, fails_at: int | None = None) -> None:
        self.size, self.fails_at = 16 * tiles, fails_at
        self.made: list[int] = []
        self.permits = threading.Semaphore(0)
        self.layout = SimpleNamespace(tile_key=lambda start, stop: (id(self), start, stop - start))

    def next_cut(self, offset: int, tile: TileSize) -> int:
        return offset // 16 * 16 + 16

    def must_prepare(self, offset: int) -> bool:
        return False

    def pieces(self, offset: int, out: Any) -> list[Any]:
        self.permits.acquire(timeout=SECONDS)
        if offset == self.fails_at:
            raise MemoryError("no room")
        self.made.append(offset)
        out[:] = offset // 16
        return []


def stream_of(file: Any, scheduler: TileScheduler, window: int = 3) -> TileStream:
    return TileStream(file, 0, file.size, scheduler=scheduler, tile=TileSize(4096), window=window)


def test_streams_take_turns(scheduler: TileScheduler) -> None:
    order: list[str] = []
    first = hold_up(scheduler)
    for stream, count in (("bulk", 5), ("small", 1), ("other", 2)):
        for _ in range(count):
            scheduler.submit(FakeTile(stream, log=order))
    last = FakeTile("bulk")
    scheduler.submit(last)
    first.gate.set()
    assert last.ended.wait(SECONDS)
    assert order == ["bulk", "small", "other", "bulk", "other", "bulk", "bulk", "bulk"]


def test_forgotten_tiles_are_not_begun(scheduler: TileScheduler) -> None:
    first, gone, last = hold_up(scheduler), FakeTile("gone"), FakeTile("last")
    scheduler.submit(gone)
    scheduler.forget("gone")
    scheduler.submit(last)
    first.gate.set()
    assert last.ended.wait(SECONDS)
    assert not gone.begun.is_set()
    assert scheduler.waiting == 0


def test_waiting_tiles_of_one_key_are_made_in_one_pass_and_their_streams_have_had_their_turn() -> None:
    counter, order = PassCounter(), list[str]()
    scheduler = new_scheduler(counter)
    first = hold_up(scheduler)
    for stream, key in (("a", 1), ("a", 2), ("b", 1), ("other", 9), ("b", 2), ("c", 2), ("c", 3)):
        scheduler.submit(FakeTile(stream, key, order))
    last = FakeTile("other")
    scheduler.submit(last)
    first.gate.set()
    scheduler_is_empty = last.ended.wait(SECONDS)
    scheduler.close()
    assert scheduler_is_empty
    # a's turn serves b, and both go behind other and c; then c's turn serves a and b, and they go behind other again.
    assert order == ["a", "b", "other", "a", "b", "c", "c"]
    assert counter.passes == [1, 2, 1, 3, 1, 1]


def test_no_pass_grows_beyond_its_bound() -> None:
    counter = PassCounter()
    scheduler = new_scheduler(counter)
    first = hold_up(scheduler)
    tiles = [FakeTile(f"s{number}", key=1) for number in range(2 * PASS_TILES + 5)]
    for tile in tiles:
        scheduler.submit(tile)
    first.gate.set()
    assert all(tile.ended.wait(SECONDS) for tile in tiles)
    scheduler.close()
    assert counter.passes == [1, PASS_TILES, PASS_TILES, 5]


def test_a_turn_is_given_to_a_stream_that_is_a_little_behind() -> None:
    order: list[str] = []
    scheduler = new_scheduler()
    first = hold_up(scheduler)
    far, near = CATCH_UP_TILES + 1, CATCH_UP_TILES
    for stream, positions in (("ahead", [far]), ("other", [0]), ("behind", [far - near, far]), ("far", [0])):
        for position in positions:
            what = "T2" if stream == "other" else "T"
            scheduler.submit(FakeTile(stream, (what, position, 1), order))
    last = FakeTile("last")
    scheduler.submit(last)
    first.gate.set()
    assert last.ended.wait(SECONDS)
    scheduler.close()
    assert order == ["behind", "ahead", "behind", "other", "far"]


def test_turns_are_not_given_away_for_ever() -> None:
    order: list[str] = []
    scheduler = new_scheduler()
    first = hold_up(scheduler)
    scheduler.submit(FakeTile("ahead", ("T", 10, 1), order))
    for number in range(2 * CATCH_UP_TURNS):
        scheduler.submit(FakeTile(f"new {number}", ("T", 9, 1 + number), order))  # never the same tile
    last = FakeTile("last")
    scheduler.submit(last)
    first.gate.set()
    assert last.ended.wait(SECONDS)
    scheduler.close()
    assert order.index("ahead") <= CATCH_UP_TURNS


@pytest.mark.parametrize("residency", Residency)
def test_requests_that_start_together_march_together(residency: Residency) -> None:
    """Sixteen streams over one T, in different dtypes and selections: few passes, and each the bytes it has alone."""
    tensors = [{"name": "a", "shape": [64, 64]}, {"name": "t", "shape": [1200, 1000], "l": 4, "r": 3}]
    spec = ModelSpec.from_value({"name": "march", "seed": 1, "tensors": tensors})
    rng = np.random.default_rng(0)
    requests = []
    for number in range(16):
        w = {"a": rng.standard_normal(64), "t": rng.standard_normal(4)}
        chosen = ["t"] if number % 2 else None
        requests.append(FabricateRequest(spec, w, dtype=(DType.F32, DType.BF16)[number // 8], tensors=chosen))
    counter, limits = PassCounter(), EngineLimits(threads=1, residency=residency)
    engine = Engine(SqliteRegistry(None), Cpu(load_backend()), limits, counter)

    async def read(request: FabricateRequest) -> bytes:
        async with aclosing((await engine.fabricate(request)).tiles()) as tiles:
            return b"".join([bytes(tile) async for tile in tiles])

    async def read_all() -> list[bytes]:
        return await asyncio.gather(*map(read, requests))

    made = asyncio.run(read_all())
    engine.close()
    for request, data in zip(requests, made, strict=True):
        file = VirtualFile(spec, request.w, dtype=request.dtype, tensors=request.tensors)
        assert data == file.read(0, file.size)
    assert sum(counter.passes) / len(counter.passes) > 4


def test_a_stream_gives_its_tiles_in_order_and_keeps_its_window(scheduler: TileScheduler) -> None:
    file = SlowFile()

    async def read() -> list[int]:
        stream, seen = stream_of(file, scheduler), []
        for number in range(20):
            file.permits.release(4)
            seen.append(bytes(await anext(stream))[0])
            assert len(stream._in_flight) <= 3
            assert max(file.made) // 16 <= number + 3
        stream.close()
        return seen

    assert asyncio.run(read()) == list(range(20))


def test_a_closed_stream_makes_nothing_more(scheduler: TileScheduler) -> None:
    file = SlowFile()

    async def read_one() -> None:
        stream = stream_of(file, scheduler)
        file.permits.release(1)
        await anext(stream)
        stream.close()
        file.permits.release(1)  # for the tile that is being made at this moment
        with pytest.raises(StopAsyncIteration):
            await anext(stream)

    asyncio.run(read_one())
    done = FakeTile("after")
    scheduler.submit(done)
    assert done.ended.wait(SECONDS)
    assert len(file.made) <= 2


def test_an_error_on_a_worker_reaches_the_reader(scheduler: TileScheduler) -> None:
    file = SlowFile(fails_at=16)
    file.permits.release(10)

    async def read() -> None:
        stream = stream_of(file, scheduler)
        await anext(stream)
        with pytest.raises(MemoryError, match="no room"):
            await anext(stream)
        stream.close()

    asyncio.run(read())


def test_a_tile_is_read_only() -> None:
    scheduler = new_scheduler()
    file = SlowFile()
    file.permits.release(10)

    async def read() -> memoryview:
        stream = stream_of(file, scheduler)
        tile = await anext(stream)
        stream.close()
        return tile

    tile = asyncio.run(read())
    scheduler.close()
    assert tile.readonly
    assert not np.frombuffer(tile, np.uint8).flags.writeable
