"""Fetched weights as mlx arrays (extra ``mlx``)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from weightloom_client.arrays import extra

__all__ = ["to_mlx"]


def to_mlx(arrays: Mapping[str, npt.NDArray[Any]]) -> dict[str, Any]:
    """Each array as an ``mlx.core.array`` of the same shape and dtype; bfloat16 stays bfloat16.

    Raises ImportError, naming the extra to install, where mlx is missing.
    """
    mx = extra("mlx.core", "to_mlx", "mlx")
    return {name: _array(mx, array) for name, array in arrays.items()}


def _array(mx: Any, array: npt.NDArray[Any]) -> Any:
    if array.dtype.name != "bfloat16":
        return mx.array(array)
    return mx.array(array.view(np.uint16)).view(mx.bfloat16)  # numpy's own dtypes are all that mlx reads
