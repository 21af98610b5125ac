"""The factor store keeps what it should, within its budget, builds once, and gives memory back."""

from __future__ import annotations

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from weightloom.engine import Observer
from weightloom.engine.factors import FactorStore, Residency
from weightloom.fabric import ModelSpec, VirtualFile, load_backend
from weightloom.fabric.device import Cpu
from weightloom.fabric.factors import BUILD, DRAW, READ, Factors, ResidentT

MIB = 1 << 20


class Counting(Observer):
    def __init__(self) -> None:
        self.events: Counter[tuple[str, str]] = Counter()
        self.held = {"T": 0, "PQS": 0}

    def factor_used(self, store: str) -> None:
        self.events["used", store] += 1

    def factor_built(self, store: str) -> None:
        self.events["built", store] += 1

    def factor_evicted(self, store: str) -> None:
        self.events["evicted", store] += 1

    def factors_held(self, store: str, size: int) -> None:
        self.held[store] = size


def factors_of(name: str, rows: int = 1 << 16, r: int = 4) -> Factors:
    return Factors(1, name, 4, r, 8, rows)  # T takes 1 MiB


def store_of(t_mib: int, observer: Observer | None = None) -> FactorStore:
    return FactorStore(Cpu(load_backend()), t_mib * MIB, MIB, observer or Observer())


def test_resident_keeps_at_once_and_pushes_out_the_least_recently_used() -> None:
    counting = Counting()
    store = store_of(2, counting)
    for name in ("a", "b", "a", "c"):
        store.expect(factors_of(name), Residency.RESIDENT)
    kept = {name: store.t(factors_of(name)) is not None for name in "abc"}
    assert kept == {"a": True, "b": False, "c": True}
    assert counting.held["T"] == 2 * MIB
    assert counting.events == {("built", "T"): 3, ("used", "T"): 1, ("evicted", "T"): 1}


def test_virtual_keeps_nothing_and_does_not_look() -> None:
    store = store_of(8)
    store.expect(factors_of("a"), Residency.RESIDENT)
    assert store.view(Residency.VIRTUAL).t(factors_of("a")) is None
    store.expect(factors_of("b"), Residency.VIRTUAL)
    assert store.t(factors_of("b")) is None


def test_auto_keeps_from_the_second_request_on() -> None:
    store = store_of(8)
    for expected in (False, True, True):
        store.expect(factors_of("a"), Residency.AUTO)
        assert (store.t(factors_of("a")) is not None) is expected


def test_auto_is_not_worn_out_by_more_models_than_there_is_room_for() -> None:
    """Ten models in turn over room for four: four stay and are used, instead of each pushing out the next."""
    counting = Counting()
    store = store_of(4, counting)
    for _ in range(5):
        for name in "abcdefghij":
            store.expect(factors_of(name), Residency.AUTO)
    assert counting.events == {("built", "T"): 4, ("used", "T"): 3 * 4}
    for _ in range(2):  # what is asked for again and again comes in nevertheless
        for name in "xy":
            store.expect(factors_of(name), Residency.AUTO)
    assert all(store.t(factors_of(name)) is not None for name in "xy")


def test_what_is_larger_than_the_budget_is_never_kept() -> None:
    store = store_of(1)
    store.expect(factors_of("small"), Residency.RESIDENT)
    store.expect(factors_of("large", rows=1 << 18), Residency.RESIDENT)
    assert store.t(factors_of("large", rows=1 << 18)) is None
    assert store.t(factors_of("small")) is not None
    assert store.pqs(Factors(1, "wide", 1 << 20, 1, 8, 4)) is None


def test_small_factors_are_drawn_once_however_many_ask() -> None:
    drawn: list[Any] = []
    real, gate = load_backend(), threading.Event()

    def normals(*arguments: Any) -> Any:
        gate.wait(60)
        drawn.append(arguments)
        return real.normals(*arguments)

    store = FactorStore(Cpu(SimpleNamespace(normals=normals, READS_T=True)), 0, MIB, Observer())  # type: ignore[arg-type]
    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(store.pqs, factors_of("a")) for _ in range(8)]
        gate.set()
        got = [future.result() for future in asked]
    assert len(drawn) == 3
    assert all(one is got[0] for one in got)
    assert got[0] is not None
    assert [len(factor) for factor in got[0]] == [16, 32, 32]


def test_a_chunk_is_built_by_one_pass_and_given_up_when_that_fails() -> None:
    t, rows = ResidentT(factors_of("a")), 1 << 16
    first, second = t.claim(0, rows), t.claim(0, rows)
    assert list(first) == [BUILD] * 16
    assert list(second) == [DRAW] * 16, "drawn for itself meanwhile"
    t.release(0, first, built=False)
    assert list(t.claim(5000, 10)) == [DRAW], "to build a whole chunk for ten rows would take too long"
    assert list(t.claim(4096, 1024)) == [BUILD]
    t.release(0, second, built=True)
    assert not t.is_whole
    t.release(5000, np.array([BUILD], np.uint8), built=True)
    rest = t.claim(0, rows)
    assert list(rest) == [BUILD, READ] + [BUILD] * 14
    t.release(0, rest, built=True)
    assert t.is_whole


def test_ranges_build_only_what_they_touch_and_all_bits_are_the_same() -> None:
    tensor = {"name": "t", "shape": [300, 1000], "l": 4, "r": 5}
    spec = ModelSpec.from_value({"name": "m", "seed": 3, "tensors": [tensor]})
    store, w = store_of(64), {"t": np.ones(4)}
    view = store.view(Residency.RESIDENT)
    file, plain = VirtualFile(spec, w, kept=view), VirtualFile(spec, w)
    for offset, length in ((600_001, 1000), (0, 300), (600_000, 50_000), (0, plain.size)):
        assert file.read(offset, length) == plain.read(offset, length)
        t = view.t(spec.tensors[0].factors(3))  # type: ignore[arg-type]
        assert t is not None
        assert t.is_whole is (length == plain.size)


def resident_memory() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.parametrize("by", ["eviction", "drop", "clear"])
def test_memory_is_truly_given_back(by: str) -> None:
    large = factors_of("large", rows=1 << 22)  # 64 MiB
    store = store_of(64)
    store.expect(large, Residency.RESIDENT)
    before = resident_memory()
    t = store.t(large)
    assert t is not None
    t.planes[:] = 1
    assert resident_memory() - before > 60 * MIB
    del t
    {
        "eviction": lambda: store.expect(factors_of("other", rows=1 << 22), Residency.RESIDENT),
        "drop": lambda: store.drop(large),
        "clear": store.clear,
    }[by]()
    assert resident_memory() - before < 8 * MIB
