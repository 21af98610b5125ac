"""Imported factors on disk: whole or not there, once each, and gone with the last model that needs them."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from support.imported import sha256_of
from weightloom.errors import InvalidFactors, InvalidSpec, NotFound, Unavailable
from weightloom.fabric import ModelSpec
from weightloom.fabric.imported import Blob
from weightloom.registry import Registry, SqliteRegistry
from weightloom.registry.blobs import RECENT_SECONDS, UNUSED_SECONDS

Open = Callable[[], Registry]
BLOB = np.arange(14, dtype="<f4").tobytes()  # P (2, 1), Q and S (3, 1), T (6, 1)
SHA256 = sha256_of(BLOB)


def spec(name: str, **fields: object) -> ModelSpec:
    tensor = {"name": "t", "shape": [6], "kind": "imported_hypernet", "l": 2, "r": 1, "hidden_dim": 3}
    return ModelSpec.from_value({"name": name, "seed": 0, "tensors": [tensor | {"factors_sha256": SHA256} | fields]})


def has(registry: Registry) -> bool:
    try:
        return registry.factors.size(SHA256) == len(BLOB)
    except NotFound:
        return False


def age(registry: Registry, seconds: float) -> None:
    """Make the blob as old as this."""
    then = time.time() - seconds
    os.utime(registry.factors._path(SHA256), (then, then))


def is_kept_by_a_sweep(registry: Registry) -> bool:
    registry.sweep()
    return has(registry)


@contextmanager
def few_descriptors(count: int) -> Iterator[None]:
    """Not more than so many may be opened beside those that are open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with Path(os.devnull).open() as lowest:  # those above it may be free or not: the limit is on the number itself
        limit = lowest.fileno() + count
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def parts_of(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "factors").iterdir())


@pytest.mark.parametrize("step", [1, 3, 7, 1 << 20])
def test_what_was_put_is_read_however_it_was_cut(registry: Registry, step: int) -> None:
    parts = [BLOB[at : at + step] for at in range(0, len(BLOB), step)]
    assert registry.factors.put(SHA256, parts)
    assert not registry.factors.put(SHA256, parts), "it was there already"
    values = registry.factors.open(Blob(SHA256, 14))
    assert values is not None
    assert values.tobytes() == BLOB


def test_a_blob_of_another_size_is_not_what_a_tensor_needs(registry: Registry) -> None:
    registry.factors.put(SHA256, [BLOB])
    assert registry.factors.open(Blob(SHA256, 13)) is None
    with pytest.raises(InvalidSpec, match=r"tensors\[0\].factors_sha256: .* 64 bytes of them") as caught:
        registry.create(spec("m", shape=[8]))
    assert caught.value.code == "factors_missing"


def test_other_bytes_than_named_leave_nothing(tmp_path: Path, open_again: Open) -> None:
    registry = open_again()
    with pytest.raises(InvalidFactors, match=SHA256) as caught:
        registry.factors.put(SHA256, [BLOB[:-1]])
    assert caught.value.code == "factors_mismatch"
    assert parts_of(tmp_path) == []


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf, 2.0**20 + 1, -3e38])
def test_numbers_that_could_make_an_infinity_are_refused(registry: Registry, number: float) -> None:
    values = np.zeros(9, "<f4")
    values[7] = number
    blob = values.tobytes()
    with pytest.raises(InvalidFactors, match="from -2\\^20 to 2\\^20") as caught:
        registry.factors.put(sha256_of(blob), [blob[:29], blob[29:]])
    assert caught.value.code == "factors_not_finite"
    with pytest.raises(NotFound):
        registry.factors.size(sha256_of(blob))


def test_half_a_number_is_none(registry: Registry) -> None:
    with pytest.raises(InvalidFactors, match="float32"):
        registry.factors.put(sha256_of(b"12345"), [b"12345"])


@pytest.mark.parametrize("digest", ["", "..", "../registry.sqlite3", "A" * 64, "0" * 63])
def test_only_digests_become_names_of_files(registry: Registry, digest: str) -> None:
    for call in (registry.factors.size, registry.factors.begin):
        with pytest.raises(InvalidFactors, match=r"sha256: got .*64 hexadecimal digits"):
            call(digest)


def test_a_model_is_created_only_where_its_factors_are(registry: Registry) -> None:
    with pytest.raises(InvalidSpec) as caught:
        registry.create(spec("m"))
    assert caught.value.code == "factors_missing"
    with pytest.raises(NotFound):
        registry.find("m")
    registry.factors.put(SHA256, [BLOB])
    assert registry.create(spec("m"))[1]


def test_factors_go_with_the_last_model_that_imports_them(registry: Registry) -> None:
    registry.factors.put(SHA256, [BLOB])
    for name in "ab":
        registry.create(spec(name))
    registry.delete("a")
    age(registry, RECENT_SECONDS + 1)
    registry.delete("b")
    assert not has(registry)


@pytest.mark.parametrize("again", ["put", "asked for"])
def test_factors_that_somebody_is_about_to_use_stay_when_the_last_model_goes(registry: Registry, again: str) -> None:
    registry.factors.put(SHA256, [BLOB])
    registry.create(spec("a"))
    age(registry, UNUSED_SECONDS + 1)
    if again == "put":
        registry.factors.put(SHA256, [BLOB])
    else:
        registry.factors.size(SHA256)
    registry.delete("a")
    assert registry.create(spec("b"))[1]


@pytest.mark.parametrize("again", [True, False])
def test_who_asks_for_factors_finds_them_for_another_day(registry: Registry, again: bool) -> None:
    registry.factors.put(SHA256, [BLOB])
    age(registry, UNUSED_SECONDS + 1)
    if again:
        registry.factors.size(SHA256)
    assert is_kept_by_a_sweep(registry) is again


def test_factors_too_recent_to_go_with_their_model_go_a_day_later(registry: Registry) -> None:
    registry.factors.put(SHA256, [BLOB])
    registry.create(spec("a"))
    registry.delete("a")
    assert is_kept_by_a_sweep(registry)
    age(registry, UNUSED_SECONDS + 1)
    assert not is_kept_by_a_sweep(registry)


def test_what_is_read_stays_readable_when_it_is_removed(registry: Registry) -> None:
    registry.factors.put(SHA256, [BLOB])
    registry.create(spec("m"))
    values = registry.factors.open(Blob(SHA256, 14))
    age(registry, RECENT_SECONDS + 1)
    registry.delete("m")
    assert values is not None
    assert values.tobytes() == BLOB
    assert registry.factors.open(Blob(SHA256, 14)) is None


def test_a_sweep_removes_what_nobody_wanted_for_a_day(tmp_path: Path, open_again: Open) -> None:
    registry = open_again()
    registry.factors.put(SHA256, [BLOB])
    broken = registry.factors.begin(SHA256)  # as a killed server leaves it
    (tmp_path / "factors" / "mine").write_text("not ours")
    registry.sweep()
    assert len(parts_of(tmp_path)) == 3, "all of it is fresh"
    yesterday = time.time() - UNUSED_SECONDS - 1
    for path in (tmp_path / "factors").iterdir():
        os.utime(path, (yesterday, yesterday))
    registry.sweep()
    assert parts_of(tmp_path) == ["mine"]
    broken.close()


def test_a_sweep_leaves_what_a_model_needs(tmp_path: Path, open_again: Open) -> None:
    registry = open_again()
    registry.factors.put(SHA256, [BLOB])
    registry.create(spec("m"))
    os.utime(tmp_path / "factors" / SHA256, (0, 0))
    registry.sweep()
    assert has(registry)


def test_factors_survive_the_process(open_again: Open) -> None:
    first = open_again()
    first.factors.put(SHA256, [BLOB])
    first.create(spec("m"))
    second = open_again()  # the first one is still open, as after kill -9
    assert has(second)
    age(second, RECENT_SECONDS + 1)
    second.delete("m")
    assert not has(first)


def test_a_disk_that_fails_is_told(tmp_path: Path) -> None:
    registry = SqliteRegistry(tmp_path / "registry.sqlite3")
    (tmp_path / "factors").write_text("in the way")
    with pytest.raises(Unavailable, match="imported factors cannot be written"):
        registry.factors.put(SHA256, [BLOB])


def many_blobs(registry: Registry, count: int) -> list[Blob]:
    parts = [np.full(14, number, "<f4").tobytes() for number in range(count)]
    for part in parts:
        registry.factors.put(sha256_of(part), [part])
    return [Blob(sha256_of(part), 14) for part in parts]


def test_a_model_may_need_more_blobs_than_the_process_may_have_files(tmp_path: Path) -> None:
    registry = SqliteRegistry(tmp_path / "registry.sqlite3")
    blobs = many_blobs(registry, 300)
    with few_descriptors(64):
        held = [registry.factors.open(blob) for blob in blobs]
        values = [None if array is None else array.tolist() for array in held]
    assert values == [[number] * 14 for number in range(300)]


def test_all_who_read_a_blob_share_its_memory(registry: Registry) -> None:
    blobs = many_blobs(registry, 100)  # more than are kept when nobody reads them
    first = [registry.factors.open(blob) for blob in blobs]
    assert all(registry.factors.open(blob) is array for blob, array in zip(blobs, first, strict=True))


def test_numbers_that_are_read_cannot_be_written_to(registry: Registry) -> None:
    registry.factors.put(SHA256, [BLOB])
    values = registry.factors.open(Blob(SHA256, 14))
    assert values is not None
    with pytest.raises(ValueError, match="read-only"):
        values[0] = 1


def test_another_file_in_the_place_of_one_that_is_read_is_read(tmp_path: Path) -> None:
    registry = SqliteRegistry(tmp_path / "registry.sqlite3")
    registry.factors.put(SHA256, [BLOB])
    registry.factors.open(Blob(SHA256, 14))
    (tmp_path / "other").write_bytes(bytes(len(BLOB)))
    (tmp_path / "other").replace(tmp_path / "factors" / SHA256)  # as somebody restores what a disk has spoiled
    values = registry.factors.open(Blob(SHA256, 14))
    assert values is not None
    assert values.tolist() == [0] * 14


def test_factors_that_cannot_be_read_are_not_told_to_be_missing(tmp_path: Path) -> None:
    registry = SqliteRegistry(tmp_path / "registry.sqlite3")
    registry.factors.put(SHA256, [BLOB])
    with few_descriptors(0), pytest.raises(Unavailable, match=r"cannot be read: .*Too many open files"):
        registry.factors.open(Blob(SHA256, 14))
    values = registry.factors.open(Blob(SHA256, 14))
    assert values is not None, "and it heals"
    assert values.tobytes() == BLOB


def test_a_folder_that_cannot_be_looked_into_is_told(tmp_path: Path, open_again: Open) -> None:
    registry = open_again()
    (tmp_path / "factors").write_text("in the way")
    for call in (lambda: registry.factors.size(SHA256), lambda: registry.create(spec("m"))):
        with pytest.raises(Unavailable, match="imported factors cannot be read"):
            call()


def test_what_was_put_in_memory_is_gone_at_the_end() -> None:
    registry = SqliteRegistry(None)
    registry.factors.put(SHA256, [BLOB])
    values = registry.factors.open(Blob(SHA256, 14))
    registry.close()
    assert not has(registry)
    assert values is not None
    assert values.tobytes() == BLOB
