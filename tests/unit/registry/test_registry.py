"""The registry: what was acknowledged stays, what failed leaves nothing."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest
from weightloom.errors import Conflict, NotFound
from weightloom.fabric import ModelSpec
from weightloom.registry import Registry

Open = Callable[[], Registry]


def spec(name: str = "demo/a", seed: int = 1, size: int = 4) -> ModelSpec:
    tensors = [{"name": "t", "shape": [size], "l": 2}, {"name": "b", "shape": [3], "kind": "identity"}]
    return ModelSpec.from_value({"name": name, "seed": seed, "tensors": tensors})


def test_a_model_is_found_by_name_and_by_digest(registry: Registry) -> None:
    summary, created = registry.create(spec())
    assert created
    assert (summary.tensors, summary.numel, summary.w_numbers) == (2, 7, 5)
    assert registry.find("demo/a") == registry.find(spec().digest) == summary
    assert registry.load(summary).digest == spec().digest


def test_the_same_again_is_no_error_and_another_is(registry: Registry) -> None:
    first, _ = registry.create(spec())
    assert registry.create(spec()) == (first, False)
    with pytest.raises(Conflict, match=f"'demo/a' exists with digest {first.digest}"):
        registry.create(spec(seed=2))
    assert registry.page("", 10) == [first]


def test_deleted_is_gone(registry: Registry) -> None:
    registry.create(spec())
    registry.create(spec("demo/b"))
    registry.delete("demo/a")
    registry.delete(spec("demo/b").digest)
    for gone in ("demo/a", "demo/b", spec().digest):
        with pytest.raises(NotFound):
            registry.find(gone)
        with pytest.raises(NotFound):
            registry.delete(gone)
    assert registry.create(spec(seed=2))[1], "the name is free again"


def test_pages_go_by_name(registry: Registry) -> None:
    for name in ("c", "a", "b/x", "b"):
        registry.create(spec(name))
    assert [m.name for m in registry.page("", 3)] == ["a", "b", "b/x"]
    assert [m.name for m in registry.page("b/x", 3)] == ["c"]
    assert registry.page("c", 3) == []


def test_models_of_any_size_fit(registry: Registry) -> None:
    tensors = [{"name": f"t{i}", "shape": [1 << 48]} for i in range(70_000)]
    huge = ModelSpec.from_value({"name": "huge", "seed": 2**64 - 1, "tensors": tensors})
    registry.create(huge)
    assert registry.find("huge").numel == 70_000 << 48


def test_a_model_survives_the_process(open_again: Open) -> None:
    first = open_again()
    summary, _ = first.create(spec())
    second = open_again()  # the first one is still open, as after kill -9
    assert second.find("demo/a") == summary
    assert second.load(summary) == spec()


def test_many_open_it_at_once(open_again: Open) -> None:
    with ThreadPoolExecutor(8) as pool:
        registries = list(pool.map(lambda _: open_again(), range(8)))
    for opened in registries:
        opened.ping()
        opened.create(spec())
    assert [model.name for model in registries[0].page("", 10)] == ["demo/a"]


def test_one_name_from_many_threads_is_made_once(registry: Registry) -> None:
    with ThreadPoolExecutor(8) as pool:
        created = list(pool.map(lambda _: registry.create(spec())[1], range(40)))
    assert sum(created) == 1


def test_names_sort_by_their_code_points(registry: Registry) -> None:
    names = sorted(["b", "B", "a", "a/b", "a-b", "a.b", "a_b", "ab", "A", "10", "9", "a" * 200])
    for name in names:
        registry.create(spec(name))
    assert [model.name for model in registry.page("", 100)] == names
    for name in names:
        assert [model.name for model in registry.page(name, 100)] == names[names.index(name) + 1 :]


@pytest.mark.parametrize("name", ["", "a\0b", "ünïcode", "\U0001f9f5", "' OR 1=1 --", "%s", "x" * 10_000])
def test_what_is_no_name_is_not_found(registry: Registry, name: str) -> None:
    registry.create(spec())
    for call in (registry.find, registry.delete, lambda name: registry.set_residency(name, "auto")):
        with pytest.raises(NotFound):
            call(name)
    assert [model.name for model in registry.page(name, 10)] == (["demo/a"] if name < "demo/a" else [])


def test_what_is_known_is_what_is_found(registry: Registry) -> None:
    summary, _ = registry.create(spec())
    assert registry.known("demo/a") == registry.known(spec().digest) == summary
    registry.delete("demo/a")
    with suppress(NotFound):  # as certain
        assert registry.known("demo/a") is None


def test_residency_is_remembered(open_again: Open) -> None:
    first, second = open_again(), open_again()
    first.create(spec())
    assert second.find("demo/a").residency is None
    first.set_residency("demo/a", "resident")
    assert [model.name for model in second.resident()] == ["demo/a"]
    second.version()  # as is done once a second
    assert second.find("demo/a").residency == first.find("demo/a").residency == "resident"


def test_what_another_process_changes_changes_the_version(open_again: Open) -> None:
    first, second = open_again(), open_again()
    seen = [second.version()]
    for change in (
        lambda: first.create(spec()),
        lambda: first.set_residency("demo/a", "virtual"),
        lambda: first.delete("demo/a"),
    ):
        change()
        seen.append(second.version())
        assert second.version() == seen[-1]
    assert len(set(seen)) == 4


def test_what_another_process_deletes_is_gone_after_the_next_look(open_again: Open) -> None:
    first, second = open_again(), open_again()
    for name in ("a", "b"):
        first.create(spec(name))
        second.find(name)
    first.delete("a")
    first.create(spec("a", seed=2))
    second.version()
    assert second.find("a").digest == spec("a", seed=2).digest
    assert second.find("b").digest == spec("b").digest
    with pytest.raises(NotFound):
        second.find(spec("a").digest)
