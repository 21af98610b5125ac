"""The virtual file: any split, any window, any thread count and any batch give the bytes of the whole."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import safetensors.torch
from hypothesis import given, settings
from hypothesis import strategies as st
from weightloom.errors import InvalidSelection, LimitExceeded
from weightloom.fabric import Backend, DType, ModelSpec, VirtualFile, kernels_cpu, load_backend
from weightloom.fabric.layout import TileSize

MODEL = ModelSpec.from_value(
    {
        "name": "demo/mixed",
        "seed": "18446744073709551615",
        "tensors": [
            {"name": "a", "shape": [7, 61], "l": 5, "r": 3},
            {"name": "bias", "shape": [5], "kind": "identity"},
            {"name": "eye", "shape": [3, 5], "kind": "constant", "value": "eye"},
            {"name": "слой", "shape": [30, 3, 41], "l": 6, "r": 2, "hidden_dim": 17},
            {"name": "scalar", "shape": [], "kind": "identity"},
            {"name": "wide", "shape": [2, 2048], "l": 4, "r": 9},
        ],
    }
)


def weights(batch: int | None = 3) -> dict[str, Any]:
    random = np.random.default_rng(0)
    shape = () if batch is None else (batch,)
    return {
        "a": random.standard_normal((*shape, 5)),
        "bias": random.standard_normal(5),
        "слой": random.standard_normal((*shape, 6)),
        "scalar": [3.25],
        "wide": random.standard_normal(4),
    }


def arrays(values: dict[str, Any]) -> dict[str, Any]:
    return {name: np.asarray(value) for name, value in values.items()}


FILES = {dtype: VirtualFile(MODEL, arrays(weights()), dtype=dtype, rows={"слой": (4, 29)}) for dtype in DType}
WHOLES = {dtype: file.read(0, file.size) for dtype, file in FILES.items()}


@given(dtype=st.sampled_from(DType), data=st.data())
def test_any_range_is_that_range_of_the_whole(dtype: DType, data: st.DataObject) -> None:
    file, whole = FILES[dtype], WHOLES[dtype]
    first = data.draw(st.integers(0, file.size))
    length = data.draw(st.integers(0, file.size - first))
    assert file.read(first, length) == whole[first : first + length]


@given(dtype=st.sampled_from(DType), tile_bytes=st.integers(1, 1 << 17), start=st.integers(0, 3000))
@settings(max_examples=40)
def test_tiles_of_any_size_from_any_start_make_the_whole(dtype: DType, tile_bytes: int, start: int) -> None:
    file, position, parts = FILES[dtype], start, []
    while position < file.size:
        end = file.next_cut(position, TileSize(tile_bytes))
        assert position < end <= file.size
        parts.append(file.read(position, min(end - position, 4096)))
        assert len(parts[-1]) <= max(tile_bytes, 4)
        position = min(end, position + 4096)
    assert b"".join(parts) == WHOLES[dtype][start:]


def test_cuts_do_not_depend_on_where_a_reader_starts() -> None:
    file, tile = FILES[DType.F32], TileSize(8192)
    large = file.layout.sections[4]
    cuts = [large.start]
    while cuts[-1] < large.stop:
        cuts.append(file.next_cut(cuts[-1], tile))
    assert len(cuts) > 5
    assert cuts[-1] == large.stop
    for cut in cuts[1:]:
        assert file.next_cut(cut - 4, tile) == cut


@pytest.mark.parametrize("threads", [1, 2, 7])
def test_any_number_of_threads_makes_the_whole(threads: int) -> None:
    file = VirtualFile(MODEL, arrays(weights()), rows={"слой": (4, 29)})  # fresh: h is made by whoever comes first
    starts = range(0, file.size, 1000)
    with ThreadPoolExecutor(threads) as pool:
        parts = list(pool.map(lambda start: file.read(start, min(1000, file.size - start)), starts))
    assert b"".join(parts) == WHOLES[DType.F32]


@pytest.mark.parametrize("dtype", DType)
def test_both_backends_make_the_same_file(dtype: DType) -> None:
    numpy_made = VirtualFile(
        MODEL, arrays(weights()), dtype=dtype, rows={"слой": (4, 29)}, backend=load_backend("numpy")
    )
    assert numpy_made.read(0, numpy_made.size) == WHOLES[dtype]


def test_a_batch_is_its_members_one_after_the_other() -> None:
    batched = safetensors.torch.load(WHOLES[DType.F32])
    for b in range(3):
        one_w = {name: value[b] if value.ndim == 2 else value for name, value in arrays(weights()).items()}
        file = VirtualFile(MODEL, one_w, rows={"слой": (4, 29)})
        one = safetensors.torch.load(file.read(0, file.size))
        for name in ("a", "слой"):
            np.testing.assert_array_equal(batched[name][b].numpy(), one[name].numpy())


def test_a_batch_draws_the_factors_once_for_all_its_members() -> None:
    counted = Counting()
    spec = ModelSpec.from_value({"name": "m", "seed": 1, "tensors": [{"name": "t", "shape": [50, 41], "l": 4}]})
    file = VirtualFile(spec, {"t": np.ones((9, 4))}, backend=counted)
    file.read(0, file.size)
    assert counted.elements == 50 * 41


def test_rows_are_those_rows_of_the_whole_tensor() -> None:
    whole = VirtualFile(MODEL, arrays(weights(None)))
    part = VirtualFile(MODEL, arrays(weights(None)), tensors=["слой", "a"], rows={"слой": (4, 29)})
    made, expected = (safetensors.torch.load(file.read(0, file.size)) for file in (part, whole))
    assert set(made) == {"a", "слой"}
    np.testing.assert_array_equal(made["слой"].numpy(), expected["слой"][4:29].numpy())
    np.testing.assert_array_equal(made["a"].numpy(), expected["a"].numpy())


def test_the_header_is_compact_padded_and_in_model_order() -> None:
    file = FILES[DType.BF16]
    length = int.from_bytes(file.header[:8], "little")
    text = file.header[8:].decode()
    assert length == len(file.header) - 8
    assert len(file.header) % 8 == 0
    parsed = json.loads(text)
    assert json.dumps(parsed, ensure_ascii=False, separators=(",", ":")) == text.rstrip(" ")
    assert [name for name in parsed if name != "__metadata__"] == [tensor.name for tensor in MODEL.tensors]
    assert parsed["__metadata__"] == {
        "format": "pt",
        "model": "demo/mixed",
        "digest": MODEL.digest,
        "generator": "philox-normal-v1",
    }
    assert parsed["слой"] == {"dtype": "BF16", "shape": [3, 25, 3, 41], "data_offsets": parsed["слой"]["data_offsets"]}


def test_header_bytes_are_frozen() -> None:
    """They are part of "the same bytes": whatever changes them breaks every stored ETag and hash."""
    spec = ModelSpec.from_value({"name": "m", "seed": 1, "tensors": [{"name": "t", "shape": [2, 2], "l": 1, "r": 1}]})
    file = VirtualFile(spec, {"t": np.ones(1)})
    assert file.header[8:] == (
        b'{"__metadata__":{"format":"pt","model":"m",'
        b'"digest":"%b","generator":"philox-normal-v1"},'
        % spec.digest.encode()
        + b'"t":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]}}'
    ).ljust(len(file.header) - 8)


class Counting:
    """A backend that counts how much it is asked for."""

    NAME, READS_T = "counting", True

    def __init__(self) -> None:
        self.elements = 0

    def hidden(self, *arguments: Any) -> Any:
        return kernels_cpu.hidden(*arguments)

    def weave(self, factors: Any, h: Any, pieces: Any, kept: Any) -> None:
        self.elements += pieces[0].count
        kernels_cpu.weave(factors, h, pieces, kept)

    def normals(self, *arguments: Any) -> Any:
        raise AssertionError("nothing is kept, so nothing is drawn to be kept")


def test_a_range_costs_the_range_and_not_the_file() -> None:
    counted: Backend = Counting()
    side = 1 << 23
    spec = ModelSpec.from_value({"name": "m", "seed": 1, "tensors": [{"name": "t", "shape": [side, side], "l": 4}]})
    file = VirtualFile(spec, {"t": np.ones((3, 4))}, backend=counted)
    assert file.size > 3 * 4 * side * side
    for offset, length in [(file.size - 7, 7), (file.size // 2 + 1, 4096), (len(file.header) + 4 * side * side - 2, 4)]:
        counted.elements = 0  # type: ignore[attr-defined]
        assert len(file.read(offset, length)) == length
        assert counted.elements <= length // 4 + 2  # type: ignore[attr-defined]


@pytest.mark.parametrize("offset", [-1, 1 << 40])
def test_bytes_outside_of_the_file_are_refused(offset: int) -> None:
    with pytest.raises(InvalidSelection, match=r"offset: got .*, expected 0 to"):
        FILES[DType.F32].read(offset, 1)
    with pytest.raises(InvalidSelection, match="length"):
        FILES[DType.F32].read(10, FILES[DType.F32].size)


def test_a_file_beyond_64_bit_offsets_is_refused() -> None:
    tensors = [{"name": f"t{i}", "shape": [1 << 48], "kind": "constant", "value": "zeros"} for i in range(8193)]
    spec = ModelSpec.from_value({"name": "m", "seed": 1, "tensors": tensors})
    with pytest.raises(LimitExceeded, match="at most 9223372036854775807"):
        VirtualFile(spec, {})


@pytest.mark.parametrize(
    ("selection", "message"),
    [
        ({"tensors": []}, "tensors: got an empty list"),
        ({"tensors": ["a", "nope"]}, "tensors: got 'nope'"),
        ({"rows": {"nope": (0, 1)}}, "rows: got 'nope'"),
        ({"tensors": ["a"], "rows": {"bias": (0, 1)}}, "rows: got bias, expected only names of selected"),
        ({"rows": {"a": (3, 3)}}, r"rows\['a'\]: got \[3, 3\], expected \[a, b\] with 0 <= a < b <= 7"),
        ({"rows": {"a": (0, 8)}}, r"rows\['a'\]: got \[0, 8\]"),
        ({"rows": {"a": (-1, 2)}}, r"rows\['a'\]"),
        ({"rows": {"scalar": (0, 1)}}, "no rows for a tensor without dimensions"),
    ],
)
def test_wrong_selections_say_what_was_expected(selection: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidSelection, match=message):
        VirtualFile(MODEL, arrays(weights()), **selection)


def test_the_etag_follows_the_bytes() -> None:
    same = VirtualFile(MODEL, arrays(weights()), rows={"слой": (4, 29)})
    assert same.etag == FILES[DType.F32].etag
    other_w = arrays(weights()) | {"scalar": np.array([3.5])}
    others = [
        FILES[DType.F16],
        VirtualFile(MODEL, other_w, rows={"слой": (4, 29)}),
        VirtualFile(MODEL, arrays(weights()), rows={"слой": (5, 30)}),
        VirtualFile(MODEL, arrays(weights())),
    ]
    assert len({same.etag, *(file.etag for file in others)}) == 5
    assert same.etag.startswith('"wl1-')
    assert len(same.etag) < 200
