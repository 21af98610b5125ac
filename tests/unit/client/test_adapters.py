"""Fetched weights in jax and mlx."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from weightloom_client.jax import to_jax
from weightloom_client.mlx import to_mlx

ARRAYS: dict[str, Any] = {
    "f32": np.arange(6, dtype=np.float32).reshape(2, 3),
    "f16": np.arange(4, dtype=np.float16),
    "bf16": np.arange(4).astype(ml_dtypes.bfloat16).reshape(2, 2),
    "scalar": np.array(1.5, np.float32),
    "bf16 scalar": np.array(1.5, ml_dtypes.bfloat16),
}


def test_jax_gets_the_same_numbers_and_dtypes() -> None:
    for name, array in to_jax(ARRAYS).items():
        assert array.dtype == ARRAYS[name].dtype
        assert array.shape == ARRAYS[name].shape
        assert np.array_equal(np.asarray(array), ARRAYS[name])


@pytest.mark.skipif(sys.platform != "linux", reason="mlx[cpu] is for Linux; elsewhere mlx may need a GPU")
def test_mlx_gets_the_same_numbers_and_dtypes() -> None:
    mx: Any = importlib.import_module("mlx.core")
    for name, array in to_mlx(ARRAYS).items():
        assert str(array.dtype) == f"mlx.core.{ARRAYS[name].dtype.name}"
        assert tuple(array.shape) == ARRAYS[name].shape
        assert np.array_equal(np.array(array.astype(mx.float32)), ARRAYS[name].astype(np.float32))


@pytest.mark.parametrize(("module", "package", "adapter"), [("jax.numpy", "jax", to_jax), ("mlx.core", "mlx", to_mlx)])
def test_a_missing_library_is_named_with_the_extra_that_brings_it(
    module: str, package: str, adapter: Callable[[Any], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=rf"pip install 'weightloom\[{package}\]'"):
        adapter(ARRAYS)
