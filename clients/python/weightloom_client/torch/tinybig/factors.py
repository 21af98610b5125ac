"""The frozen factors of a tinyBIG function, live or read from a pickle, checked and ready to be uploaded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from weightloom.errors import InvalidFactors, InvalidInput
from weightloom.fabric.imported import MAX_NUMBER

from weightloom_client.factors import FactorBlob

__all__ = ["Hypernet", "at", "positive"]


@dataclass(frozen=True)
class Hypernet:
    """A function that has made a W: its sizes, how many elements W has, and P, Q, S and T end to end."""

    l: int
    r: int
    hidden_dim: int
    numel: int
    blob: FactorBlob

    @property
    def fields(self) -> dict[str, Any]:
        """What a tensor spec says besides name and shape."""
        sizes = {"l": self.l, "r": self.r, "hidden_dim": self.hidden_dim}
        return {"kind": "imported_hypernet", **sizes, "factors_sha256": self.blob.digest}

    @classmethod
    def of(cls, function: Any, path: str = "") -> Hypernet:
        """Check and take the factors; nothing is copied. path: of the function in its model.

        Raises InvalidInput, naming the field, where a factor is missing, no float32 or of another shape than its sizes
        say; InvalidFactors where one holds NaN, an infinity or a number beyond ±2^20.
        """
        l, r, hidden_dim = (positive(function, size, path) for size in ("l", "r", "hidden_dim"))
        widths = {"P": l, "Q": hidden_dim, "S": hidden_dim, "T": None}
        factors = [_factor(function, name, path, rows, r) for name, rows in widths.items()]
        return cls(l, r, hidden_dim, len(factors[-1]), FactorBlob(factors))


def at(path: str, name: str) -> str:
    """The name of an attribute of what lies at ``path``."""
    return f"{path}.{name}".lstrip(".")


def positive(holder: Any, name: str, path: str) -> int:
    """The attribute ``name``. Raises InvalidInput where it is no positive integer."""
    value = getattr(holder, name, None)
    if type(value) is not int or value < 1:
        raise InvalidInput.at(at(path, name), repr(value), "a positive integer")
    return value


def _factor(function: Any, name: str, path: str, rows: int | None, r: int) -> npt.NDArray[np.float32]:
    """The factor (rows, r); rows: None for T, which has as many as W has elements."""
    value, field = getattr(function, name, None), at(path, name)
    if not isinstance(value, torch.Tensor):
        got = "None" if value is None else type(value).__name__
        expected = "a tensor: tinyBIG draws the factors in the first forward, and a state_dict has lost them"
        raise InvalidInput.at(field, got, expected)
    if value.ndim != 2 or value.numel() == 0 or value.shape[0] != (rows or value.shape[0]) or value.shape[1] != r:
        raise InvalidInput.at(field, f"shape {list(value.shape)}", f"shape [{rows or 'n D'}, {r}]")
    if value.dtype != torch.float32:
        raise InvalidInput.at(field, str(value.dtype), "torch.float32, in which factors are kept and used")
    array: npt.NDArray[np.float32] = value.detach().cpu().numpy()
    _check_finite(array, field)
    return array


def _check_finite(array: npt.NDArray[np.float32], field: str) -> None:
    smallest, largest = array.min(), array.max()  # NaN if there is one
    if not (smallest >= -MAX_NUMBER and largest <= MAX_NUMBER):
        got = f"numbers from {smallest} to {largest}"
        raise InvalidFactors.at(field, got, "finite numbers within ±2^20", code="factors_not_finite")
