"""Tensors whose factors are given: the same arithmetic, at any range, and only where the factors are."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from support.imported import blob_of, imported, sha256_of
from weightloom.errors import InvalidSpec
from weightloom.fabric import Backend, DType, ModelSpec, VirtualFile
from weightloom.fabric.factors import ImportedOnly
from weightloom.fabric.imported import MAX_NUMBER, Blob
from weightloom.fabric.kinds import imported_hypernet
from weightloom.fabric.kinds.random_matrix_hypernet import max_scale

TENSOR = {"name": "t", "shape": [37, 29], "l": 6, "r": 5, "hidden_dim": 17, "scale": 0.1}
BIAS = {"name": "b", "shape": [3], "kind": "identity"}
DRAWN = ModelSpec.from_value({"name": "m", "seed": 9, "tensors": [TENSOR, BIAS]})
FACTORS = DRAWN.tensors[0].factors(9)
assert FACTORS is not None
BLOB = blob_of(FACTORS)
GIVEN = ModelSpec.from_value({"name": "m", "seed": 9, "tensors": [imported(TENSOR, BLOB), BIAS]})
GENERATOR = np.random.default_rng(0)
W = {"t": GENERATOR.normal(size=(3, 6)).astype(np.float32), "b": np.ones(3, np.float32)}


@dataclass
class Store:
    """Keeps one blob, and what was asked of it."""

    blob: bytes = BLOB
    asked: list[Blob] = field(default_factory=list)

    def open(self, blob: Blob) -> npt.NDArray[np.float32] | None:
        self.asked.append(blob)
        return np.frombuffer(self.blob, "<f4") if blob == Blob(sha256_of(self.blob), len(self.blob) // 4) else None


def file_of(model: ModelSpec, backend: Backend, **options: Any) -> VirtualFile:
    return VirtualFile(model, W, backend=backend, kept=ImportedOnly(Store().open), **options)


def data_of(file: VirtualFile) -> bytes:
    return file.read(len(file.header), file.size - len(file.header))


@pytest.mark.parametrize("dtype", DType)
@pytest.mark.parametrize("options", [{}, {"rows": {"t": (5, 31)}}, {"tensors": ["t"]}], ids=str)
def test_given_factors_weave_what_drawn_ones_do(backend: Backend, dtype: DType, options: dict[str, Any]) -> None:
    given, drawn = (file_of(model, backend, dtype=dtype, **options) for model in (GIVEN, DRAWN))
    assert data_of(given) == data_of(drawn)


def test_factors_too_large_to_be_copied_weave_the_same(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = data_of(file_of(GIVEN, backend))
    monkeypatch.setattr(imported_hypernet, "COPIED_NUMBERS", 0)
    assert data_of(file_of(GIVEN, backend)) == expected


def test_any_range_of_bytes_is_that_of_the_whole(backend: Backend) -> None:
    file = file_of(GIVEN, backend, dtype=DType.BF16)
    whole = file.read(0, file.size)
    for _ in range(200):
        start, stop = sorted(GENERATOR.integers(0, file.size, 2))
        assert file.read(int(start), int(stop - start)) == whole[start:stop]


def test_what_only_the_model_needs_is_not_asked_for(backend: Backend) -> None:
    store = Store()
    VirtualFile(GIVEN, {"b": W["b"]}, tensors=["b"], backend=backend, kept=ImportedOnly(store.open))
    assert store.asked == []
    VirtualFile(GIVEN, W, backend=backend, kept=ImportedOnly(store.open))
    assert store.asked == [Blob(sha256_of(BLOB), len(BLOB) // 4)]


@pytest.mark.parametrize("kept", [{}, {"kept": ImportedOnly(Store(bytes(8)).open)}], ids=["nothing", "another"])
def test_a_file_whose_factors_are_missing_is_refused_before_its_first_byte(kept: dict[str, Any]) -> None:
    with pytest.raises(InvalidSpec, match=rf"tensors\[0\].factors_sha256: got {sha256_of(BLOB)}") as caught:
        VirtualFile(GIVEN, W, **kept)
    assert caught.value.code == "factors_missing"


def test_the_file_says_that_factors_were_imported(backend: Backend) -> None:
    assert b"+imported" in file_of(GIVEN, backend).header
    assert b"+imported" not in file_of(DRAWN, backend).header


def test_the_seed_is_no_part_of_what_is_given(backend: Backend) -> None:
    other = ModelSpec.from_value(GIVEN.model_dump() | {"seed": 10})
    assert data_of(file_of(other, backend)) == data_of(file_of(GIVEN, backend))


@pytest.mark.parametrize("digest", ["", "0" * 63, "G" * 64, None, 5])
def test_a_digest_is_64_digits(digest: Any) -> None:
    with pytest.raises(InvalidSpec, match="factors_sha256"):
        ModelSpec.from_value({"seed": 1, "tensors": [imported(TENSOR, BLOB) | {"factors_sha256": digest}]})


def test_no_scale_is_allowed_at_which_w_could_be_infinite(backend: Backend) -> None:
    """The largest numbers that a blob may have, with all signs so that every sum grows."""
    r, hidden_dim = 4, 64
    blob = np.full(2 * r + 2 * hidden_dim * r + 3 * r, MAX_NUMBER, "<f4").tobytes()
    limit = max_scale(r, hidden_dim, imported_hypernet.ImportedHypernet.largest_number)
    tensor = {"name": "t", "shape": [3], "l": 2, "r": r, "hidden_dim": hidden_dim, "scale": limit}
    model = ModelSpec.from_value({"name": "m", "seed": 1, "tensors": [imported(tensor, blob)]})
    w = {"t": np.full(2, np.finfo(np.float32).max, np.float32)}
    file = VirtualFile(model, w, backend=backend, kept=ImportedOnly(Store(blob).open))
    made = np.frombuffer(data_of(file), "<f4")
    assert np.isfinite(made).all()
    assert made.max() > 1e37
    with pytest.raises(InvalidSpec, match="scale"):
        ModelSpec.from_value({"seed": 1, "tensors": [imported(tensor | {"scale": limit * 1.01}, blob)]})
