"""The engine: known answers, limits, and the way of a request."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator
from contextlib import aclosing
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from weightloom.engine import Engine, EngineLimits
from weightloom.engine.known_answer import check_known_answer
from weightloom.errors import InvalidSelection, LimitExceeded, NotFound, Unavailable
from weightloom.fabric import Backend, ModelSpec, VirtualFile, load_backend
from weightloom.fabric.device import Cpu
from weightloom.fabric.layout import TileSize
from weightloom.registry import SqliteRegistry
from weightloom.requests import FabricateRequest

SPEC = ModelSpec.from_value({"name": "m", "seed": 1, "tensors": [{"name": "t", "shape": [1000, 1000], "l": 4}]})
W = {"t": np.ones(4)}


@pytest.fixture
def engine() -> Iterator[Engine]:
    made = Engine(SqliteRegistry(None), Cpu(load_backend()), EngineLimits(threads=2, max_output_bytes=5_000_000))
    yield made
    made.close()


def test_the_known_answer_comes_out_right(backend: Backend) -> None:
    check_known_answer(Cpu(backend))
    assert backend.NAME in ("numpy", "numba")


def test_wrong_arithmetic_is_not_ready(engine: Engine) -> None:
    real = load_backend("numpy")

    def weave(factors: Any, h: Any, pieces: Any, kept: Any) -> None:
        real.weave(factors, h, pieces, kept)
        pieces[0].out[:, 0] += 1

    broken: Any = SimpleNamespace(NAME="broken", READS_T=True, hidden=real.hidden, weave=weave)
    engine.device = Cpu(broken)
    with pytest.raises(Unavailable, match="backend broken makes wrong bits in F32") as caught:
        engine.check_ready()
    assert caught.value.code == "wrong_bits"


async def read(engine: Engine, request: FabricateRequest) -> bytes:
    fabrication = await engine.fabricate(request)
    async with aclosing(fabrication.tiles()) as tiles:
        return b"".join([bytes(tile) async for tile in tiles])


@pytest.mark.parametrize(("offset", "length"), [(0, None), (0, 100), (77, None), (3_999_999, 5), (4_000_100, 0)])
def test_any_part_of_a_file_is_that_part_of_the_whole(engine: Engine, offset: int, length: int | None) -> None:
    whole = asyncio.run(read(engine, FabricateRequest(SPEC, W)))
    part = asyncio.run(read(engine, FabricateRequest(SPEC, W, offset=offset, length=length)))
    assert part == whole[offset : None if length is None else offset + length]


@settings(max_examples=40)
@given(
    threads=st.integers(1, 5),
    window=st.integers(1, 9),
    tile_bytes=st.sampled_from([4096, 10_000, 65536, 1 << 20]),
    batch=st.integers(1, 4),
    start=st.floats(0, 1),
)
def test_any_window_any_threads_any_tile_and_any_batch_give_the_bytes_of_the_whole(
    threads: int, window: int, tile_bytes: int, batch: int, start: float
) -> None:
    spec = ModelSpec.from_value({"name": "m", "seed": 2, "tensors": [{"name": "t", "shape": [201, 103], "l": 4}]})
    w = {"t": np.random.default_rng(batch).standard_normal((batch, 4))}
    made = Engine(
        SqliteRegistry(None),
        Cpu(load_backend()),
        EngineLimits(threads=threads, tile=TileSize(tile_bytes), tile_window=window),
    )
    try:
        file = VirtualFile(spec, w)
        offset = int(start * file.size)
        assert asyncio.run(read(made, FabricateRequest(spec, w, offset=offset))) == file.read(
            offset, file.size - offset
        )
    finally:
        made.close()


def test_limits_and_ranges_are_checked_before_anything_is_made(engine: Engine) -> None:
    many = FabricateRequest(SPEC, {"t": np.ones((2, 4))})
    with pytest.raises(LimitExceeded, match=r"expected at most 5000000 \(setting max_output_bytes\)"):
        engine.plan(many)
    part = FabricateRequest(SPEC, {"t": np.ones((2, 4))}, offset=3_500_000)
    assert engine.plan(part).size < 5_000_000
    with pytest.raises(InvalidSelection, match="offset"):
        engine.plan(FabricateRequest(SPEC, W, offset=4_001_000))
    with pytest.raises(InvalidSelection, match="length"):
        engine.plan(FabricateRequest(SPEC, W, offset=4_000_000, length=10_000))


def test_large_batches_are_prepared_block_by_block(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    tensor = {"name": "t", "shape": [3], "l": 2, "r": 4, "hidden_dim": 8}
    spec = ModelSpec.from_value({"name": "blocks", "seed": 1, "tensors": [tensor]})
    w = np.random.default_rng(1).standard_normal((1000, 2))
    whole = VirtualFile(spec, {"t": w}).read(0, 1000)
    monkeypatch.setattr("weightloom.fabric.sections.BLOCK_PREPARATION", 72 * 7)
    again = ModelSpec.from_value({"name": "blocks", "seed": 1, "tensors": [tensor | {"scale": 1.0}]})
    file = VirtualFile(again, {"t": w[:999]})
    assert file.layout.sections[1].block == 7  # type: ignore[attr-defined]
    header = len(file.header)
    assert file.read(header, 500) == VirtualFile(spec, {"t": w}).read(header, 500) == whole[header : header + 500]
    assert asyncio.run(read(engine, FabricateRequest(spec, {"t": w[:999]}))) == file.read(0, file.size)


def test_heavy_preparations_do_not_pile_up_in_one_tile(engine: Engine) -> None:
    tensors = [{"name": f"t{i}", "shape": [1], "l": 1, "r": 64, "hidden_dim": 1 << 18} for i in range(5)]
    spec = ModelSpec.from_value({"name": "heavy", "seed": 1, "tensors": tensors})
    layout = engine.plan(FabricateRequest(spec, {f"t{i}": np.ones(1) for i in range(5)})).file.layout
    cuts = [len(layout.header)]
    while cuts[-1] < layout.size:
        cuts.append(layout.next_cut(cuts[-1], TileSize()))
    assert [b - a for a, b in itertools.pairwise(cuts)] == [4] * 5


def test_models_by_name_and_by_digest(engine: Engine) -> None:
    asyncio.run(engine.create_model(SPEC))
    inline = asyncio.run(read(engine, FabricateRequest(SPEC, W)))
    assert asyncio.run(read(engine, FabricateRequest("m", W))) == inline
    assert asyncio.run(read(engine, FabricateRequest(SPEC.digest, W))) == inline
    with pytest.raises(NotFound, match="'nope'"):
        asyncio.run(read(engine, FabricateRequest("nope", W)))


def test_a_model_of_very_many_tensors_streams_in_short_tiles(engine: Engine) -> None:
    tensors = [{"name": f"t{i}", "shape": [2], "kind": "constant", "value": "ones"} for i in range(3000)]
    spec = ModelSpec.from_value({"name": "many", "seed": 1, "tensors": tensors})
    fabrication = engine.plan(FabricateRequest(spec))
    cuts = [len(fabrication.file.header)]
    while cuts[-1] < fabrication.file.size:
        cuts.append(fabrication.file.next_cut(cuts[-1]))
    assert len(cuts) > 10
    assert len(asyncio.run(read(engine, FabricateRequest(spec)))) == fabrication.file.size
