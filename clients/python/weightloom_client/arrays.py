"""Arrays of any library (numpy, torch, jax, plain lists) as numpy's float32; only numpy is imported for it."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
from weightloom.errors import InvalidInput, InvalidW

__all__ = ["extra", "float32_of", "plain_array", "state_of"]


def float32_of(field: str, value: Any) -> npt.NDArray[np.float32]:
    """A copy of ``value``'s numbers as C-contiguous float32 of the same shape, from whatever device they lie on.

    Numbers beyond float32 become infinite; the caller checks. Raises InvalidW, naming ``field``, where ``value`` has no
    real numbers in it.
    """
    try:
        array = np.asarray(plain_array(value))
        if array.dtype.kind in "cOSUMm":
            raise ValueError(f"numbers of dtype {array.dtype}")
        with np.errstate(over="ignore"):
            return np.array(array, np.float32, order="C", copy=True)
    except (TypeError, ValueError, RuntimeError) as error:  # torch's for meta tensors is a RuntimeError
        raise InvalidW.at(field, f"{type(value).__name__} ({error})", "real numbers", code="w_wrong_type") from error


def plain_array(value: Any) -> Any:
    """What numpy can read: it cannot read torch's bfloat16, other devices, or what requires a gradient."""
    if not hasattr(value, "detach"):
        return value
    plain = value.detach().cpu()
    return (plain.float() if plain.is_floating_point() and plain.element_size() < 4 else plain).numpy()


def state_of(module: Any) -> Mapping[str, Any]:
    """The names and tensors of anything with ``state_dict()``, or of a mapping as it is. Raises InvalidInput."""
    state = module.state_dict() if hasattr(module, "state_dict") else module
    if not isinstance(state, Mapping):
        raise InvalidInput.at("module", type(module).__name__, "a module with state_dict(), or a mapping of names")
    return state


def extra(name: str, user: str, package: str) -> ModuleType:
    """The module ``name``. Raises ImportError that says how to install it for ``user``, from the extra ``package``."""
    try:
        return import_module(name)
    except ImportError as error:
        told = f"{user} needs {package}, which is not installed: pip install 'weightloom[{package}]'"
        raise ImportError(told, name=name) from error
