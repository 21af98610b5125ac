"""A model and its w's in one small file."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import torch
from weightloom.errors import InvalidInput, InvalidSpec, InvalidW, MalformedBody, WeightloomError
from weightloom.fabric import VirtualFile
from weightloom.fabric.safetensors import parse, write
from weightloom.requests import options_from_query, request_from_safetensors
from weightloom_client.bundle import Bundle
from weightloom_client.model_spec import ModelSpec

SPEC = ModelSpec.from_shapes(
    {"a": (30, 40), "b": (5,), "c": (2,)}, name="net", seed=2**63, l=16, r=4, kinds={"c": "ones"}
)
W = {"b": np.arange(5.0), "a": np.random.default_rng(1).normal(size=16)}
BUNDLE = Bundle(SPEC, W, {"accuracy": "0.97", "who": "Zoë"})


def changed(metadata: dict[str, str | None], **w: Any) -> bytes:
    """The bundle's file with other metadata (None: without it) and other w's."""
    arrays, texts = parse(BUNDLE.to_bytes())
    kept = {key: text for key, text in ({**texts, **metadata}).items() if text is not None}
    return write(kept, {**arrays, **w})


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    BUNDLE.save(tmp_path / "net.bundle")
    loaded = Bundle.load(tmp_path / "net.bundle")
    assert loaded == BUNDLE
    assert loaded.spec == SPEC
    assert isinstance(loaded.spec, ModelSpec)
    assert loaded.metadata == {"accuracy": "0.97", "who": "Zoë"}
    assert list(loaded.w) == ["a", "b"]
    assert np.array_equal(loaded.w["a"], W["a"].astype(np.float32))
    assert [path.name for path in tmp_path.iterdir()] == ["net.bundle"]
    assert (tmp_path / "net.bundle").stat().st_size < 2000


def test_a_failed_save_leaves_the_older_bundle_and_nothing_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    BUNDLE.save(tmp_path / "kept")

    def full(file: int) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="no space"):
        Bundle(SPEC, W).save(tmp_path / "kept")
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    assert Bundle.load(tmp_path / "kept") == BUNDLE


def test_a_bundle_is_a_request_as_it_is() -> None:
    request = request_from_safetensors(BUNDLE.to_bytes(), options_from_query(""))
    assert not isinstance(request.model, str)
    asked, direct = VirtualFile(request.model, request.w), VirtualFile(SPEC, W)
    assert asked.read(0, asked.size) == direct.read(0, direct.size)


def test_equal_bundles_have_equal_bytes_in_whatever_order_they_are_given() -> None:
    other = Bundle(SPEC, dict(reversed(W.items())), {"who": "Zoë", "accuracy": "0.97"})
    assert other.to_bytes() == BUNDLE.to_bytes() == Bundle.from_bytes(BUNDLE.to_bytes()).to_bytes()
    assert hash(other) == hash(BUNDLE)
    assert Bundle(SPEC, {**W, "b": np.ones(5)}) != BUNDLE


def test_any_safetensors_reader_reads_a_bundle() -> None:
    assert safetensors.numpy.load(BUNDLE.to_bytes())["b"].tolist() == [0, 1, 2, 3, 4]


def test_a_batch_keeps_its_shape_and_trained_parameters_are_taken_as_they_are() -> None:
    batch = torch.nn.Parameter(torch.randn(3, 16))
    bundle = Bundle.from_bytes(Bundle(SPEC, {**W, "a": batch}).to_bytes())  # type: ignore[dict-item]
    assert bundle.w["a"].shape == (3, 16)
    assert torch.equal(torch.tensor(bundle.w["a"]), batch.detach())


def test_a_bundle_does_not_change_with_what_it_was_made_from() -> None:
    numbers = np.ones(5, np.float32)
    bundle = Bundle(SPEC, {**W, "b": numbers})
    numbers[:] = 2
    assert bundle.w["b"].tolist() == [1] * 5
    with pytest.raises(ValueError, match="read-only"):
        bundle.w["b"][0] = 3


@pytest.mark.parametrize(
    ("w", "code"),
    [
        ({"a": np.ones(16)}, "w_missing"),
        ({**W, "a": np.ones(15)}, "w_wrong_length"),
        ({**W, "c": np.ones(2)}, "w_unexpected"),
        ({**W, "b": [1, 2, 3, 4, np.nan]}, "w_not_finite"),
        ({**W, "b": [1, 2, 3, 4, 1e39]}, "w_not_finite"),
        ({**W, "b": ["1"] * 5}, "w_wrong_type"),
        ({**W, "b": [[1], [1, 2]]}, "w_wrong_type"),
        ({**W, "b": np.ones(5) * 1j}, "w_wrong_type"),
        ({**W, "b": torch.ones(5) * 1j}, "w_wrong_type"),
    ],
)
def test_a_w_that_does_not_fit_is_refused_at_once(w: Any, code: str) -> None:
    with pytest.raises(InvalidW) as caught:
        Bundle(SPEC, w)
    assert caught.value.code == code


@pytest.mark.parametrize("metadata", [{"n": 3}, {3: "n"}, {"weightloom.digest": "0"}, {"s": "\ud800"}])
def test_metadata_is_text_under_keys_of_ones_own(metadata: Any) -> None:
    with pytest.raises(InvalidInput, match="metadata"):
        Bundle(SPEC, W, metadata)


OTHER = ModelSpec.from_shapes({"a": (30, 40)}, name="other", seed=1).digest
BROKEN = {
    "empty": (b"", MalformedBody, "body: got 0 bytes"),
    "cut": (BUNDLE.to_bytes()[:-1], MalformedBody, "data_offsets: got [64, 84]"),
    "cut in its header": (BUNDLE.to_bytes()[:100], MalformedBody, "header length: got"),
    "longer": (BUNDLE.to_bytes() + b"0", MalformedBody, "body: got 85 bytes of data, expected 84"),
    "not safetensors": (b"PK" * 50, MalformedBody, "header length"),
    "a stranger's": (safetensors.numpy.save({"a": np.ones(3)}), MalformedBody, "is no bundle"),
    "without digest": (changed({"weightloom.digest": None}), MalformedBody, "metadata['weightloom.digest']"),
    "another digest": (changed({"weightloom.digest": OTHER}), InvalidSpec, f"got {OTHER}, expected {SPEC.digest}"),
    "spec no JSON": (changed({"weightloom.spec": "{"}), MalformedBody, "not JSON"),
    "w too short": (changed({}, a=np.ones(15, np.float32)), InvalidW, "w['a']: got shape [15], expected [16]"),
    "w of another tensor": (changed({}, z=np.ones(15, np.float32)), InvalidW, "w['z']"),
    "infinite": (changed({}, b=np.full(5, np.inf, np.float32)), InvalidW, "w['b'][0]: got inf"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_file_that_is_no_bundle_says_what_is_wrong_and_where(case: str, tmp_path: Path) -> None:
    body, error, said = BROKEN[case]
    (tmp_path / "file").write_bytes(body)
    with pytest.raises(error) as caught:
        Bundle.load(tmp_path / "file")
    assert said in str(caught.value)
    assert any(str(tmp_path / "file") in note for note in caught.value.__notes__)


def test_a_w_of_another_dtype_is_no_bundles() -> None:
    half = BUNDLE.to_bytes().replace(b'"F32","shape":[5]', b'"F16","shape":[10]', 1)
    (length,) = struct.unpack("<Q", half[:8])
    with pytest.raises(InvalidW, match=r"w\['b'\].dtype: got F16, expected F32"):
        Bundle.from_bytes(struct.pack("<Q", length + 1) + half[8:])


def test_no_cut_of_a_bundle_is_taken_for_one() -> None:
    body = BUNDLE.to_bytes()
    for end in range(0, len(body), 7):
        with pytest.raises(WeightloomError):
            Bundle.from_bytes(body[:end])
