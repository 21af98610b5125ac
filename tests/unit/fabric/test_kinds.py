"""The kinds that need no arithmetic."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import safetensors.torch
from hypothesis import given
from hypothesis import strategies as st
from weightloom.errors import InvalidSpec
from weightloom.fabric import DType, ModelSpec, VirtualFile
from weightloom.fabric.kinds import KIND_NAMES, BaseTensorSpec, TensorSpec


def constant(value: str, shape: list[int]) -> VirtualFile:
    tensor = {"name": "t", "shape": shape, "kind": "constant", "value": value}
    return VirtualFile(ModelSpec.from_value({"name": "m", "seed": 0, "tensors": [tensor]}), {})


def data(file: VirtualFile) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    return np.frombuffer(file.read(len(file.header), file.size - len(file.header)), np.float32)


@given(rows=st.integers(1, 40), columns=st.integers(1, 40))
def test_eye_is_the_identity_matrix_of_any_shape(rows: int, columns: int) -> None:
    np.testing.assert_array_equal(data(constant("eye", [rows, columns])).reshape(rows, columns), np.eye(rows, columns))


@given(rows=st.integers(1, 12), columns=st.integers(1, 12), cut=st.data())
def test_any_range_of_eye_is_that_range(rows: int, columns: int, cut: st.DataObject) -> None:
    file, whole = constant("eye", [rows, columns]), np.eye(rows, columns, dtype=np.float32).tobytes()
    first = cut.draw(st.integers(0, len(whole)))
    length = cut.draw(st.integers(0, len(whole) - first))
    assert file.read(len(file.header) + first, length) == whole[first : first + length]


def test_eye_at_the_far_end_of_a_huge_matrix() -> None:
    side = 1 << 24
    file = constant("eye", [side, side])
    last_row = np.frombuffer(file.read(file.size - 4 * 8, 4 * 8), np.float32)
    np.testing.assert_array_equal(last_row, [0, 0, 0, 0, 0, 0, 0, 1])


@pytest.mark.parametrize(("value", "expected"), [("zeros", 0.0), ("ones", 1.0)])
def test_zeros_and_ones(value: str, expected: float) -> None:
    np.testing.assert_array_equal(data(constant(value, [3, 2, 2])), np.full(12, expected))


def test_eye_needs_a_matrix() -> None:
    with pytest.raises(InvalidSpec, match=r"tensors\[0\].*two dimensions for 'eye' \(it is \[4\]\)"):
        constant("eye", [4])


@pytest.mark.parametrize("dtype", DType)
def test_identity_gives_w_back(dtype: DType) -> None:
    tensor = {"name": "b", "shape": [2, 3], "kind": "identity"}
    spec = ModelSpec.from_value({"name": "m", "seed": 0, "tensors": [tensor]})
    w = np.array([0.5, -1, 2, 1024, -0.0, 3], np.float32)  # exact in all three dtypes
    file = VirtualFile(spec, {"b": w}, dtype=dtype)
    made = safetensors.torch.load(file.read(0, file.size))["b"].float().numpy()
    np.testing.assert_array_equal(made, w.reshape(2, 3))
    np.testing.assert_array_equal(np.signbit(made), np.signbit(w.reshape(2, 3)))


def test_every_kind_is_listed_where_documents_are_read() -> None:
    tagged = TensorSpec.__origin__.__args__  # type: ignore[attr-defined]
    assert tuple(kind.__metadata__[0].tag for kind in tagged) == KIND_NAMES
    assert {kind.__origin__ for kind in tagged} == set(leaves(BaseTensorSpec))


def leaves(kind: type[BaseTensorSpec]) -> Iterator[type[BaseTensorSpec]]:
    """The classes that none is derived from: the others only share code."""
    for derived in kind.__subclasses__():
        yield from leaves(derived) if derived.__subclasses__() else [derived]
