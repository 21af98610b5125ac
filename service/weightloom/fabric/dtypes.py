"""The three output dtypes and how float32 becomes each of them, rounded to nearest even."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from weightloom.errors import InvalidSelection

__all__ = ["DType", "encode", "parse_dtype", "widen"]


class DType(StrEnum):
    """An output dtype by its safetensors name."""

    F32 = "F32"
    F16 = "F16"
    BF16 = "BF16"

    @property
    def itemsize(self) -> int:
        """Bytes per element."""
        return 4 if self is DType.F32 else 2

    @property
    def storage(self) -> np.dtype[Any]:
        """The numpy dtype that holds the bits: numpy has no bfloat16, so both 16-bit kinds are kept as uint16."""
        return np.dtype("<f4" if self is DType.F32 else "<u2")


def parse_dtype(name: str) -> DType:
    """The dtype called ``name``. Raises InvalidSelection."""
    try:
        return DType(name)
    except ValueError:
        raise InvalidSelection.at("dtype", repr(name), "one of " + ", ".join(DType), code="dtype_unknown") from None


def encode(values: npt.NDArray[np.float32], dtype: DType, out: npt.NDArray[Any]) -> None:
    """Round float32 ``values`` to ``dtype`` into ``out``, an array of the same shape and of ``dtype.storage``."""
    if dtype is DType.F32:
        out[...] = values
    elif dtype is DType.F16:
        with np.errstate(over="ignore"):  # beyond float16's range the nearest float16 is infinity
            out[...] = values.astype(np.float16).view(np.uint16)
    else:
        bits = np.ascontiguousarray(values).view(np.uint32)
        half = np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
        out[...] = ((bits + half) >> np.uint32(16)).astype(np.uint16)


def widen(bits: npt.NDArray[np.uint16]) -> npt.NDArray[np.float32]:
    """bfloat16 bit patterns as float32, exactly."""
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)
