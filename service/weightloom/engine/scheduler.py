"""Worker threads that make tiles: fairly between streams, and together what wants the same rows of the same tensor.

A worker takes the first tile of the stream whose turn it is, and every waiting tile of other streams that has the same
key: they are made in one pass. There is no timer and no worker waits for company; passes grow by themselves with the
load. All streams that a pass has served go to the end of the round. A stream whose turn it is gives it, for a while, to
one that is some tiles behind it over the same T: so streams that start together march together, and find each other
again when readers of different speed have drawn them apart.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Hashable, Sequence
from contextlib import suppress
from typing import Protocol

import numpy as np
import numpy.typing as npt

from weightloom.engine.buffers import TileBuffers
from weightloom.engine.observer import Observer
from weightloom.fabric import VirtualFile
from weightloom.fabric.layout import TileKey
from weightloom.fabric.passes import Piece, weave

__all__ = ["Tile", "TileScheduler"]

WORKER_NICENESS = 5
PASS_TILES = 32  # so that no pass keeps a worker for longer than some 8 ms
CATCH_UP_TILES, CATCH_UP_TURNS = 64, 64  # who is further behind is on its own; nobody waits for others for ever


class Tile(Protocol):
    """Bytes start ... stop - 1 of ``file``, wanted by ``stream``; tiles of equal keys can be made in one pass."""

    @property
    def stream(self) -> Hashable:
        """Whose turn it is."""

    @property
    def file(self) -> VirtualFile:
        """What the bytes are of."""

    @property
    def start(self) -> int:
        """The first byte."""

    @property
    def stop(self) -> int:
        """Behind the last byte."""

    @property
    def key(self) -> TileKey:
        """Equal for tiles that can be made in one pass."""

    def begin(self) -> None:
        """A worker has taken it."""

    def deliver(self, data: npt.NDArray[np.uint8], seconds: float) -> None:
        """It is made, in ``seconds`` of a worker's time. Called for all tiles of a pass, one right after the other."""

    def fail(self, error: BaseException) -> None:
        """It can not be made."""


class TileScheduler:
    """``threads`` workers; ``buffers`` give the tiles their memory."""

    def __init__(self, threads: int, buffers: TileBuffers, observer: Observer) -> None:
        self._buffers, self._observer = buffers, observer
        self._queues: OrderedDict[Hashable, deque[Tile]] = OrderedDict()
        self._same: dict[TileKey, list[Tile]] = {}
        self._given_away: dict[Hashable, int] = {}  # turns, by stream, since it was served
        self._changed = threading.Condition()
        self._closed = False
        self._threads = [
            threading.Thread(target=self._work, name=f"tile-worker-{i}", daemon=True) for i in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, tile: Tile) -> None:
        """Queue a tile behind the others of its stream."""
        with self._changed:
            self._queues.setdefault(tile.stream, deque()).append(tile)
            self._same.setdefault(tile.key, []).append(tile)
            self._changed.notify()

    def forget(self, stream: Hashable) -> None:
        """Drop the tiles of a stream that have not begun."""
        with self._changed:
            self._given_away.pop(stream, None)
            for tile in self._queues.pop(stream, ()):
                self._without(tile)

    @property
    def waiting(self) -> int:
        """Tiles that have not begun."""
        with self._changed:
            return sum(map(len, self._queues.values()))

    def close(self) -> None:
        """Stop the workers after the passes they are at."""
        with self._changed:
            self._closed = True
            self._queues.clear()
            self._same.clear()
            self._given_away.clear()
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        _yield_to_other_threads()
        while tiles := self._next():
            self._make(tiles)
            del tiles  # or their memory would stay taken until the next pass

    def _next(self) -> list[Tile]:
        """The tiles of the next pass; empty when the scheduler is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or bool(self._queues))
            if self._closed:
                return []
            first = self._behind(next(iter(self._queues.values()))[0])
            tiles = self._same[first.key][:PASS_TILES]
            if first not in tiles:
                tiles[-1] = first
            for tile in tiles:
                self._take(tile)
        return tiles

    def _behind(self, tile: Tile) -> Tile:
        """The tile whose turn it is, or the first one of a stream that should catch up with it."""
        given_away = self._given_away.get(tile.stream, 0)
        if given_away >= CATCH_UP_TURNS:
            return tile
        (what, position, count), behind = tile.key, tile
        for queue in self._queues.values():
            key = queue[0].key
            if key[0] == what and position - CATCH_UP_TILES * count <= key[1] < behind.key[1]:
                behind = queue[0]
        if behind is not tile:
            self._given_away[tile.stream] = given_away + 1
        return behind

    def _take(self, tile: Tile) -> None:
        self._given_away.pop(tile.stream, None)
        queue = self._queues[tile.stream]
        queue.remove(tile)
        if queue:
            self._queues.move_to_end(tile.stream)
        else:
            del self._queues[tile.stream]
        self._without(tile)

    def _without(self, tile: Tile) -> None:
        same = self._same[tile.key]
        same.remove(tile)
        if not same:
            del self._same[tile.key]

    def _make(self, tiles: Sequence[Tile]) -> None:
        began = time.perf_counter()
        pieces: list[Piece] = []
        made: list[tuple[Tile, npt.NDArray[np.uint8]]] = []
        for tile in tiles:
            try:
                tile.begin()
                out = self._buffers.take(tile.stop - tile.start)
                pieces += tile.file.pieces(tile.start, out)
                made.append((tile, out))
            except BaseException as error:
                tile.fail(error)
        self._weave(pieces, made, began)

    def _weave(self, pieces: list[Piece], made: list[tuple[Tile, npt.NDArray[np.uint8]]], began: float) -> None:
        try:
            weave(pieces)
        except BaseException as error:
            for tile, _ in made:
                tile.fail(error)
            return
        if made:
            self._observer.pass_made(len(made))
            share = (time.perf_counter() - began) / len(made)
            for tile, out in made:
                tile.deliver(out, share)


def _yield_to_other_threads() -> None:
    """Let the event loop have the core at once when it has something to send or to answer, where the system allows."""
    if sys.platform == "linux":  # there a niceness belongs to a thread, elsewhere to the process
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), WORKER_NICENESS)
