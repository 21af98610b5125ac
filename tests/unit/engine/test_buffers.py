"""Tile memory is reused, and never while anyone can still see it."""

from __future__ import annotations

import gc

import numpy as np
from weightloom.engine.buffers import TileBuffers

BLOCK = 1 << 12


def test_a_block_is_reused_once_every_view_of_it_is_gone() -> None:
    buffers = TileBuffers(BLOCK, kept=4)
    tile = buffers.take(BLOCK)
    address, view = tile.ctypes.data, tile.data[10:20]
    del tile
    assert buffers.take(BLOCK).ctypes.data != address, "a view is still held"
    del view
    gc.collect()
    assert address in {held.ctypes.data for held in [buffers.take(BLOCK) for _ in range(2)]}


def test_what_is_written_into_one_tile_stays_there_while_it_is_held() -> None:
    buffers = TileBuffers(BLOCK, kept=2)
    held = []
    for number in range(50):
        tile = buffers.take(BLOCK)
        tile[:] = number
        held.append((number, tile.data.toreadonly()))
        held = held[-8:]
        assert all((np.frombuffer(view, np.uint8) == kept).all() for kept, view in held)


def test_idle_memory_is_bounded() -> None:
    buffers = TileBuffers(BLOCK, kept=3)
    tiles = [buffers.take(BLOCK) for _ in range(20)]
    del tiles
    gc.collect()
    assert buffers.idle_bytes == 3 * BLOCK


def test_sizes_are_exact_and_small_tiles_take_no_block() -> None:
    buffers = TileBuffers(BLOCK, kept=3)
    for size in (0, 1, BLOCK // 4, BLOCK // 4 + 1, BLOCK - 1, BLOCK, BLOCK + 1):
        assert len(buffers.take(size)) == size
    small = buffers.take(8)
    del small
    gc.collect()
    assert buffers.idle_bytes <= 3 * BLOCK
