"""What a worker does: files side by side, each the very one that POST /fabricate sends, each verified."""

from __future__ import annotations

import gc
import hashlib
import json
import os
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from support.buffered_fs import BufferedFiles
from support.imported import blob_of, imported, sha256_of
from support.tables import MODEL, SPEC, row, w_of
from weightloom.errors import Unavailable
from weightloom.fabric import DType, VirtualFile
from weightloom.materialize import maker as module
from weightloom.materialize import remote
from weightloom.materialize.batches import Batch, Item, Known, Outcome
from weightloom.materialize.folder import Folder, FolderPart
from weightloom.materialize.maker import Maker, MakerOptions
from weightloom.materialize.sink import open_sink
from weightloom.registry.blobs import FactorBlobs

SPECS = {"demo": MODEL.model_dump_json().encode()}


@pytest.fixture(params=["folder", "file", "local", "memory"])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A folder, also by its URL, and the two file systems of fsspec that need no other machine."""
    folder = str(tmp_path / "out")
    return {
        "folder": folder,
        "file": f"file://{folder}",
        "local": f"local://{tmp_path}/out",
        "memory": f"memory://{tmp_path}",
    }[request.param]


def item(number: int, known: Known | None = None, **fields: Any) -> Item:
    value = row(number, **fields)
    return Item(number, value["file"], json.dumps(value).encode(), value.get("model"), known)


def made(target: str, *items: Item, **options: Any) -> list[Outcome]:
    outcomes = Maker(MakerOptions(target, **options)).make(Batch(list(items), SPECS))
    return sorted(outcomes, key=lambda outcome: outcome.row)


def bytes_at(target: str, file: str) -> bytes:
    system, root = fsspec.core.url_to_fs(target)
    return bytes(system.cat_file(f"{root}/{file}"))


def expected(number: int, **options: Any) -> VirtualFile:
    return VirtualFile(MODEL, {name: np.array(values) for name, values in w_of(number).items()}, **options)


def whole(file: VirtualFile) -> bytes:
    return file.read(0, file.size)


def test_files_are_those_of_post_fabricate(target: str) -> None:
    inline = {key: SPEC[key] for key in ("name", "seed", "tensors")}
    bare = {"file": "w/4", "w": w_of(4)} | inline
    outcomes = made(
        target,
        *(item(number) for number in range(3)),
        item(3, dtype="BF16", tensors=["a"], rows={"a": [3, 9]}),
        Item(4, "w/4", json.dumps(bare).encode(), None),
    )
    files = [expected(number) for number in range(3)]
    files += [expected(3, dtype=DType.BF16, tensors=["a"], rows={"a": [3, 9]}), expected(4)]
    for outcome, file in zip(outcomes, files, strict=True):
        data = bytes_at(target, outcome.file)
        assert data == whole(file)
        assert outcome.state == "made"
        assert (outcome.etag, outcome.size) == (file.etag, file.size)
        assert outcome.sha256 == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("limit", [64, 640, 4096])
def test_large_files_are_made_window_by_window(target: str, limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WINDOW_BYTES", limit)
    monkeypatch.setattr(remote, "BUFFER_BYTES", 1000)
    monkeypatch.setattr(module, "GROUP_BYTES", 1)
    monkeypatch.setattr(module, "PASS_FILES", 2)
    outcomes = made(target, *(item(number, dtype="F16") for number in range(6)))
    assert [outcome.state for outcome in outcomes] == ["made"] * 6
    for number, outcome in enumerate(outcomes):
        assert bytes_at(target, outcome.file) == whole(expected(number, dtype=DType.F16))


def test_a_bad_item_is_told_and_the_others_are_made(target: str) -> None:
    bad = item(1, w={"a": [1.0]}), item(2, dtype="F64"), item(3, offset=8), item(4, w={}), item(5, frobnicate=1)
    outcomes = made(target, item(0), *bad, item(6))
    assert [outcome.state for outcome in outcomes] == ["made", *["failed"] * 5, "made"]
    assert [outcome.code for outcome in outcomes[1:-1]] == [
        "w_wrong_length", "dtype_unknown", "invalid_request", "w_missing", "invalid_request",
    ]  # fmt: skip
    assert "whole" in outcomes[3].detail


def test_what_is_known_and_there_is_kept(target: str) -> None:
    (first,) = made(target, item(1))
    known = Known(first.etag, first.size, first.sha256)
    (again,) = made(target, item(1, known))
    assert (again.state, again.sha256) == ("kept", first.sha256)
    (other,) = made(target, item(1, known, w=w_of(2)))
    assert other.state == "made"
    assert bytes_at(target, other.file) == whole(expected(2))


def test_what_is_there_unknown_is_kept_where_it_is_the_same(target: str) -> None:
    (first,) = made(target, item(1))
    assert made(target, item(1))[0].state == "kept"
    assert made(target, item(1, w=w_of(2)))[0].state == "made"
    assert first.file == "v/1.safetensors"


def spoil(target: str, file: str, change: Callable[[bytes], bytes]) -> None:
    system, root = fsspec.core.url_to_fs(target)
    system.pipe_file(f"{root}/{file}", change(system.cat_file(f"{root}/{file}")))


@pytest.mark.parametrize("doubt", ["recheck", "not sure"])
def test_a_doubtful_file_is_read_again(target: str, doubt: str) -> None:
    (first,) = made(target, item(1))
    known = Known(first.etag, first.size, first.sha256, is_sure=doubt == "recheck")
    options = {"recheck": doubt == "recheck"}
    assert made(target, item(1, known), **options)[0].state == "kept"
    spoil(target, first.file, lambda data: data[:-1] + bytes([data[-1] ^ 1]))
    assert made(target, item(1, known), **options)[0].state == "made"
    assert bytes_at(target, first.file) == whole(expected(1))


@pytest.mark.parametrize("change", [lambda path: path.unlink(), lambda path: os.truncate(path, 10)])
def test_a_file_of_a_folder_that_is_gone_or_cut_is_made_again(change: Callable[[Path], None], tmp_path: Path) -> None:
    (first,) = made(str(tmp_path), item(1))
    change(tmp_path / first.file)
    assert made(str(tmp_path), item(1, Known(first.etag, first.size, first.sha256)))[0].state == "made"


def test_other_bytes_than_were_written_are_an_error_and_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = FolderPart.write

    def flipped(part: FolderPart, data: memoryview) -> None:
        write(part, memoryview(bytes([data[0] ^ 1]) + bytes(data[1:])) if part._file == "v/1.safetensors" else data)

    monkeypatch.setattr(FolderPart, "write", flipped)
    outcomes = made(str(tmp_path), item(0), item(1))
    assert [outcome.state for outcome in outcomes] == ["made", "failed"]
    assert outcomes[1].code == "target_unavailable"
    assert "reads back as" in outcomes[1].detail
    assert [path.name for path in (tmp_path / "v").iterdir()] == ["0.safetensors"]
    assert list(Folder(tmp_path).parts.iterdir()) == []


def test_other_bytes_at_a_url_are_an_error_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = fsspec.filesystem("memory")
    pipe = memory.pipe_file
    monkeypatch.setattr(type(memory), "pipe_file", lambda self, path, data: pipe(path, data[:-1]))
    (outcome,) = made(f"memory://{tmp_path}", item(1))
    assert (outcome.state, outcome.code) == ("failed", "target_unavailable")


def test_what_the_system_refuses_is_told_for_that_item(tmp_path: Path) -> None:
    (tmp_path / "v").mkdir()
    (tmp_path / "v/1.safetensors").mkdir()
    (tmp_path / "taken").touch()
    outcomes = made(str(tmp_path), item(0), item(1), item(2, file="taken/2"), item(3, file="n" * 300))
    assert [outcome.code for outcome in outcomes] == ["", *["target_unavailable"] * 2, "invalid_request"]
    assert list(Folder(tmp_path).parts.iterdir()) == []


def test_imported_factors_are_read_from_their_folder(tmp_path: Path) -> None:
    tensor = {**SPEC["tensors"][0], "hidden_dim": 128}
    blob = blob_of(MODEL.tensors[0].factors(MODEL.seed))
    spec = {"name": "i", "seed": 5, "tensors": [imported(tensor, blob)]}
    FactorBlobs(tmp_path / "factors").put(sha256_of(blob), [blob])
    line = {"file": "x", "w": {"a": w_of(1)["a"]}}
    batch = Batch([Item(1, "x", json.dumps(line).encode(), "i")], {"i": json.dumps(spec).encode()})
    assert Maker(MakerOptions(str(tmp_path / "o"), tmp_path / "factors")).make(batch)[0].state == "made"
    size = 4 * 24 * 16
    assert bytes_at(str(tmp_path / "o"), "x")[-size:] == whole(expected(1, tensors=["a"]))[-size:]
    missing = Maker(MakerOptions(str(tmp_path / "p"), tmp_path / "none")).make(batch)[0]
    assert (missing.state, missing.code) == ("failed", "factors_missing")


def test_wrong_arithmetic_makes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(device: object) -> None:
        raise Unavailable("wrong", code="wrong_bits")

    monkeypatch.setattr(module, "check_known_answer", wrong)
    with pytest.raises(Unavailable, match="wrong"):
        Maker(MakerOptions(str(tmp_path)))


def test_half_an_upload_is_not_completed_when_it_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """fsspec's files complete an upload when the last reference to them goes."""
    monkeypatch.setattr(BufferedFiles, "files", {})
    monkeypatch.setattr(remote, "BUFFER_BYTES", 100)
    monkeypatch.setattr(module, "WINDOW_BYTES", 640)
    weave, calls = module.weave, 0

    def weave_once(pieces: Any) -> None:
        nonlocal calls
        calls += 1
        if calls > 1:
            raise MemoryError
        weave(pieces)

    monkeypatch.setattr(module, "weave", weave_once)
    (outcome,) = made("buffered://bucket", item(1))
    assert outcome.state == "failed"
    gc.collect()
    assert BufferedFiles.files == {}


def test_what_a_url_raises_is_the_targets_fault_whatever_its_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BufferedFiles, "files", {})
    monkeypatch.setattr(BufferedFiles, "refusal", LookupError("no credentials"))
    for limit in (100, 1 << 20):
        monkeypatch.setattr(remote, "BUFFER_BYTES", limit)
        (outcome,) = made("buffered://bucket", item(1))
        assert (outcome.state, outcome.code) == ("failed", "target_unavailable")
        assert outcome.detail == "v/1.safetensors: LookupError: no credentials"


def test_a_url_that_cannot_be_opened_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: BufferedFiles, *arguments: object, **options: object) -> None:
        raise LookupError("no such host")

    monkeypatch.setattr(BufferedFiles, "__init__", refuse)
    BufferedFiles.clear_instance_cache()
    with pytest.raises(Unavailable, match=r"buffered://bucket: LookupError: no such host") as told:
        open_sink("buffered://bucket")
    assert told.value.code == "target_unavailable"


@pytest.mark.skipif(find_spec("s3fs") is not None, reason="s3fs is installed")
def test_a_url_whose_package_is_missing_is_told() -> None:
    with pytest.raises(Unavailable, match=r"s3://bucket/x needs fsspec.* s3fs") as told:
        open_sink("s3://bucket/x")
    assert told.value.code == "missing_extra"
