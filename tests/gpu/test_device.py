"""GPUs as the engine's device: who makes what, and what happens when memory runs out or a GPU is lost."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import pytest
import torch
from weightloom.engine import Engine, Observer
from weightloom.engine.factors import FactorStore, Residency
from weightloom.engine.known_answer import check_known_answer
from weightloom.engine.limits import EngineLimits
from weightloom.errors import Unavailable
from weightloom.fabric import DType, ModelSpec, VirtualFile, kernels_cuda, load_backend
from weightloom.fabric.device import Cpu, open_device
from weightloom.fabric.factors import Factors, ResidentT
from weightloom.fabric.gpu.device import LEAST_NORMALS, Cuda
from weightloom.fabric.gpu.gpu import Gpu, GpuT
from weightloom.fabric.layout import TileSize
from weightloom.fabric.passes import Piece
from weightloom.registry import SqliteRegistry
from weightloom.requests import FabricateRequest

# A program reads whole groups of a kept T, be they built or not; what is made of those is not copied.
pytestmark = pytest.mark.filterwarnings("ignore:(invalid value|overflow) encountered in:RuntimeWarning")

TWO = ["cuda:0", "cuda:1"]
interpreted = pytest.mark.skipif(not kernels_cuda.INTERPRETED, reason="needs as many GPUs as it likes, to lose them")

SPEC = ModelSpec.from_value(
    {
        "name": "m",
        "seed": 3,
        "tensors": [
            {"name": "large", "shape": [300, 200], "l": 4, "r": 3},
            {"name": "small", "shape": [5], "l": 4},
            {"name": "ones", "shape": [70], "kind": "constant", "value": "ones"},
        ],
    }
)
W = {"large": np.arange(8.0).reshape(2, 4), "small": np.ones(4)}


def piece(count: int, rows: int = 1, start: int = 0) -> Piece:
    return Piece(None, 0, start, DType.F32, np.full((rows, count), np.nan, np.float32))  # type: ignore[arg-type]


def woven(device: Any, factors: Factors, count: int, kept: Any = None) -> bytes:
    made = piece(count)
    device.backend.weave(factors, np.ones((1, factors.r), np.float32), [made], kept)
    return made.out.tobytes()


def by_host(factors: Factors, count: int) -> bytes:
    made = piece(count)
    load_backend().weave(factors, np.ones((1, factors.r), np.float32), [made], None)
    return made.out.tobytes()


@contextmanager
def failing(
    monkeypatch: pytest.MonkeyPatch, error: Exception, times: int, gpu: Gpu | None = None
) -> Iterator[list[Gpu]]:
    """The next ``times`` launches (on ``gpu``, or any) fail as torch and Triton fail."""
    real, failed = Gpu._lane, list[Gpu]()

    @contextmanager
    def lane(self: Gpu) -> Iterator[Any]:
        with real(self) as one:
            if len(failed) < times and gpu in (None, self):
                failed.append(self)
                raise error
            yield one

    def wait(self: Gpu) -> None:
        if error is LOST and self in failed:
            raise error

    with monkeypatch.context() as patch:
        patch.setattr(Gpu, "_lane", lane)
        patch.setattr(Gpu, "_wait", wait)
        yield failed


FULL = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB\nlong advice")
LOST = RuntimeError("CUDA error: an illegal memory access was encountered\nlong advice")


async def read(engine: Engine, dtype: DType) -> bytes:
    fabrication = await engine.fabricate(FabricateRequest(SPEC, W, dtype))
    return b"".join([bytes(tile) async for tile in fabrication.tiles()])


def test_a_whole_engine_makes_the_bits_of_the_processor(cuda: Cuda) -> None:
    engine = Engine(SqliteRegistry(None), cuda, EngineLimits(threads=2, tile=TileSize(1 << 16)))
    try:
        for dtype in DType:
            expected = VirtualFile(SPEC, W, dtype=dtype)
            for _ in range(3):  # virtual; building T; reading it
                assert asyncio.run(read(engine, dtype)) == expected.read(0, expected.size)
        assert engine.check_ready() == {}
    finally:
        engine.close()


def test_little_is_made_by_the_processor_and_much_by_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    device, much = Cuda(["cuda:0"], load_backend(), 1 << 20), LEAST_NORMALS
    factors = Factors(1, "t", 4, 1, 8, much)
    with failing(monkeypatch, FULL, 1) as failed:
        assert woven(device, factors, much - 1) == by_host(factors, much - 1)
        assert not failed
        with pytest.raises(Unavailable) as caught:
            woven(device, factors, much)
    assert caught.value.code == "gpu_out_of_memory"


def test_a_little_of_a_kept_t_is_drawn_by_the_processor_once_all_of_it_is_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is faster, and small replies are made on the event loop, which must not wait for a GPU."""
    device, factors = Cuda(["cuda:0"], load_backend(), 1 << 20), Factors(1, "t", 4, 1, 8, LEAST_NORMALS)
    kept = device.gpus[0].new_t(factors)
    little = LEAST_NORMALS // 2
    for start, count, by_gpu in [(0, little, 1), (little, little, 1), (9, little, 0), (0, LEAST_NORMALS, 1)]:
        with failing(monkeypatch, RuntimeError("a launch"), 1) as launched, suppress(RuntimeError):
            device.weave(factors, np.ones((1, 1), np.float32), [piece(count, start=start)], kept)
        assert len(launched) == by_gpu
        device.weave(factors, np.ones((1, 1), np.float32), [made := piece(count, start=start)], kept)
        assert made.out.tobytes() == by_host(factors, LEAST_NORMALS)[4 * start : 4 * (start + count)]
    assert kept.is_whole


def test_small_t_s_stay_with_the_processor(cuda: Cuda) -> None:
    device = Cuda(["cuda:0"], load_backend(), 1 << 20)
    small, large = Factors(1, "s", 4, 1, 8, LEAST_NORMALS - 1), Factors(1, "l", 4, 1, 8, LEAST_NORMALS)
    assert (device.place_of(small), device.place_of(large)) == (0, 1)
    kept = device.memories[0].new_t(small)
    assert woven(device, small, small.numel, kept) == by_host(small, small.numel)
    assert kept.is_whole


def store_of(device: Cuda) -> FactorStore:
    return FactorStore(device, 1 << 20, 1 << 20, Observer())


def test_memory_that_runs_out_is_taken_from_kept_t_s(cuda: Cuda, monkeypatch: pytest.MonkeyPatch) -> None:
    store = store_of(cuda)
    kept = [Factors(1, name, 4, 2, 8, 5000) for name in "ab"]
    for factors in kept:
        store.expect(factors, Residency.RESIDENT)
    assert all(store.t(factors) for factors in kept)
    with failing(monkeypatch, FULL, 1):
        assert woven(cuda, kept[1], 5000, store.t(kept[1])) == by_host(kept[1], 5000)
    assert [store.t(factors) is not None for factors in kept] == [False, True]


def test_no_memory_at_all_is_told_and_nothing_is_lost(cuda: Cuda, monkeypatch: pytest.MonkeyPatch) -> None:
    store, factors = store_of(cuda), Factors(1, "a", 4, 2, 8, 5000)
    store.expect(factors, Residency.RESIDENT)
    kept = store.t(factors)
    with failing(monkeypatch, FULL, 2), pytest.raises(Unavailable, match="cuda:0: CUDA out of memory") as caught:
        woven(cuda, factors, 5000, kept)
    assert caught.value.code == "gpu_out_of_memory"
    assert "long advice" not in caught.value.message
    assert store.t(factors) is None
    assert woven(cuda, factors, 5000) == by_host(factors, 5000)
    check_known_answer(cuda)


def test_a_pass_that_finds_no_memory_leaves_its_lane_to_the_next_one(
    cuda: Cuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    factors, gpu = Factors(1, "a", 4, 2, 8, 5000), cuda.gpus[0]
    woven(cuda, factors, 5000)
    lanes = list(gpu._idle)

    def weave(*arguments: Any) -> None:
        raise FULL

    with monkeypatch.context() as patch:
        patch.setattr(kernels_cuda, "weave", weave)
        with pytest.raises(Unavailable, match="out of memory"):
            woven(cuda, factors, 5000)
    assert list(gpu._idle) == lanes
    assert woven(cuda, factors, 5000) == by_host(factors, 5000)


def test_a_t_for_which_there_is_no_memory_stays_virtual(cuda: Cuda, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is to be resident pushes others out first; auto does not."""
    store, (a, b, c) = store_of(cuda), (Factors(1, name, 4, 2, 8, 5000) for name in "abc")
    store.expect(a, Residency.RESIDENT)
    real, room = Gpu.allocate, [1]

    def allocate(self: Gpu, shape: tuple[int, int, int]) -> Any:
        if not room:
            with self._told():
                raise FULL
        room.pop()
        return real(self, shape)

    monkeypatch.setattr(Gpu, "allocate", allocate)
    room.clear()
    for _ in range(2):
        store.expect(b, Residency.AUTO)
    assert (store.t(a) is not None, store.t(b)) == (True, None)
    monkeypatch.setattr(
        store._t[1], "drop_oldest", lambda drop=store._t[1].drop_oldest: drop() and (room.append(1) or True)
    )
    store.expect(c, Residency.RESIDENT)
    assert (store.t(a), store.t(c) is not None) == (None, True)


def test_a_gpu_that_turns_out_to_be_lost_when_a_t_is_to_be_kept_fails_nobody(
    cuda: Cuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, factors = store_of(cuda), Factors(1, "a", 4, 2, 8, 5000)

    def allocate(self: Gpu, shape: tuple[int, int, int]) -> Any:
        with self._told():
            raise LOST

    def wait(self: Gpu) -> None:
        raise LOST

    monkeypatch.setattr(Gpu, "allocate", allocate)
    monkeypatch.setattr(Gpu, "_wait", wait)
    store.expect(factors, Residency.RESIDENT)
    assert cuda.gpus[0].lost
    assert store.t(factors) is None


@interpreted
def test_a_lost_gpu_s_work_goes_to_another_and_ready_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    device, factors = Cuda(TWO, load_backend(), 1 << 20, least_normals=0), Factors(1, "a", 4, 2, 8, 5000)
    with failing(monkeypatch, LOST, 1, device.gpus[0]):
        assert woven(device, factors, 5000) == by_host(factors, 5000)
    assert device.gpus[0].lost == "CUDA error: an illegal memory access was encountered"
    assert not device.gpus[1].lost
    with pytest.raises(Unavailable, match="cuda:0 is lost: CUDA error") as caught:
        check_known_answer(device)
    assert caught.value.code == "gpu_lost"
    assert {device.place_of(Factors(1, str(i), 4, 2, 8, 5000)) for i in range(20)} == {0, 2}


@interpreted
def test_a_stream_goes_on_when_a_gpu_is_lost_in_its_middle(monkeypatch: pytest.MonkeyPatch) -> None:
    device = Cuda(TWO, load_backend(), 1 << 20, least_normals=0)
    engine = Engine(SqliteRegistry(None), device, EngineLimits(threads=2, tile=TileSize(1 << 15)))
    expected = VirtualFile(SPEC, W, dtype=DType.F32)
    try:
        with failing(monkeypatch, LOST, 1, device.gpus[1]) as failed:
            assert asyncio.run(read(engine, DType.F32)) == expected.read(0, expected.size)
        assert failed
        with pytest.raises(Unavailable, match="cuda:1 is lost"):
            engine.check_ready()
    finally:
        engine.close()


def test_a_request_without_memory_gets_its_reason_and_the_next_one_its_bytes(
    cuda: Cuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine(SqliteRegistry(None), cuda, EngineLimits(threads=2, tile=TileSize(1 << 15)))
    expected = VirtualFile(SPEC, W, dtype=DType.F32)
    try:
        with failing(monkeypatch, FULL, 100), pytest.raises(Unavailable, match="out of memory"):
            asyncio.run(read(engine, DType.F32))
        assert asyncio.run(read(engine, DType.F32)) == expected.read(0, expected.size)
        assert engine.check_ready() == {}
    finally:
        engine.close()


@interpreted
def test_no_gpu_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    factors = Factors(1, "a", 4, 2, 8, 5000)
    device = Cuda(["cuda:0"], load_backend(), 1 << 20, least_normals=0)
    kept = device.gpus[0].new_t(factors)
    with failing(monkeypatch, LOST, 1), pytest.raises(Unavailable, match="is lost") as caught:
        woven(device, factors, 5000, kept)
    assert caught.value.code == "gpu_lost"
    device = Cuda(["cuda:0"], load_backend(), 1 << 20, fallback=True, least_normals=0)
    with failing(monkeypatch, LOST, 1):
        assert woven(device, factors, 5000, kept) == by_host(factors, 5000)
    check_known_answer(device)
    assert device.problems() == {
        "cuda:0": "lost, the processor goes on: CUDA error: an illegal memory access was encountered"
    }


def test_other_errors_are_not_the_gpu_s(cuda: Cuda, monkeypatch: pytest.MonkeyPatch) -> None:
    with failing(monkeypatch, RuntimeError("a bug"), 1), pytest.raises(RuntimeError, match="a bug"):
        woven(cuda, Factors(1, "a", 4, 2, 8, 5000), 5000)
    assert not cuda.gpus[0].lost


@interpreted
def test_several_gpus_work_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each has T's of its own; what is virtual goes to the one that has less to do."""
    device = Cuda(TWO, load_backend(), 1 << 20, least_normals=0)
    places = [device.place_of(Factors(1, str(i), 4, 2, 8, 5000)) for i in range(40)]
    assert min(places.count(1), places.count(2)) > 8
    used, real, both = list[str](), Gpu.weave, threading.Barrier(2, timeout=60)

    def weave(self: Gpu, *arguments: Any) -> None:
        used.append(self.name)
        self.busy += 1
        both.wait()
        self.busy -= 1
        real(self, *arguments)

    monkeypatch.setattr(Gpu, "weave", weave)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda name: woven(device, Factors(1, name, 4, 2, 8, 5000), 5000), "ab"))
    assert sorted(used) == TWO


def test_warming_up_notices_wrong_bits(cuda: Cuda, monkeypatch: pytest.MonkeyPatch) -> None:
    cuda.warm_up()
    real: Callable[..., None] = kernels_cuda.weave

    def weave(out: Any, *arguments: Any) -> None:
        real(out, *arguments)
        out[0] ^= 1

    monkeypatch.setattr(kernels_cuda, "weave", weave)
    with pytest.raises(Unavailable, match="cuda:0 makes wrong bits") as caught:
        cuda.warm_up()
    assert caught.value.code == "wrong_bits"


@pytest.mark.parametrize(
    "error", [RuntimeError("Failed to find C compiler."), PermissionError(13, "Permission denied", "/.triton")]
)
def test_warming_up_says_what_the_kernels_lack(cuda: Cuda, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def weave(*arguments: Any) -> None:
        raise error

    monkeypatch.setattr(kernels_cuda, "weave", weave)
    with pytest.raises(Unavailable, match=r"cuda:0 cannot be used: .*(compiler|denied)") as caught:
        cuda.warm_up()
    assert caught.value.code == "gpu_unavailable"


def test_a_gpu_that_is_another_process_s_alone_is_told_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    def busy(self: Gpu, share: float) -> int:
        raise RuntimeError("CUDA error: CUDA-capable device(s) is/are busy or unavailable\nlong advice")

    monkeypatch.setattr(Gpu, "_half_of_what_is_free", busy)
    with pytest.raises(Unavailable, match=r"cuda:0 cannot be used: CUDA error: .* unavailable$") as caught:
        Cuda(["cuda:0"], load_backend())
    assert caught.value.code == "gpu_unavailable"


def test_memory_of_t_s_that_are_gone_goes_back_to_the_gpu(cuda: Cuda, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu, reserved, emptied = cuda.gpus[0], [0], list[bool]()
    monkeypatch.setattr(gpu, "device", torch.device("cuda:0"))
    monkeypatch.setattr(torch, "empty", lambda *_, **__: None)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: reserved[0])
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: emptied.append(True))
    gpu.allocate((1, 4, 1))
    assert not emptied
    reserved[0] = 2 * gpu.budget + (1 << 30)
    gpu.allocate((1, 4, 1))
    assert emptied


def test_many_threads_share_a_gpu(cuda: Cuda) -> None:
    kept = cuda.gpus[0].new_t(factors := Factors(1, "a", 4, 2, 8, 20_000))
    expected = np.frombuffer(by_host(factors, 20_000), np.float32)

    def weave(start: int) -> bool:
        made = piece(5000, start=start)
        cuda.weave(factors, np.ones((1, 2), np.float32), [made], kept if start % 2 else None)
        return np.array_equal(made.out[0], expected[start : start + 5000])

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(weave, range(0, 15_000, 1501)))


def test_a_t_is_as_large_as_it_says(cuda: Cuda) -> None:
    for numel in (1, 4096, 4097, 100_000):
        factors = Factors(1, "a", 4, 5, 8, numel)
        kept = cuda.gpus[0].new_t(factors)
        assert isinstance(kept, GpuT)
        assert kept.planes.nbytes == ResidentT.size_of(factors)


def test_auto_takes_the_processor_where_a_gpu_makes_wrong_bits(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert isinstance(open_device("cuda:0"), Cuda)

    def weave(out: Any, *arguments: Any) -> None:
        out.zero_()

    monkeypatch.setattr(kernels_cuda, "weave", weave)
    monkeypatch.setattr("weightloom.fabric.gpu.finding.find_gpus", lambda name: ["cuda:0"])
    with pytest.raises(Unavailable, match="cuda:0 makes wrong bits"):
        open_device("cuda:0")
    with caplog.at_level(logging.WARNING):
        assert isinstance(open_device("auto"), Cpu)
    assert "there is a GPU here, but it is not used: cuda:0 makes wrong bits" in caplog.text
