"""Fetched weights as jax arrays (extra ``jax``)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy.typing as npt

from weightloom_client.arrays import extra

__all__ = ["to_jax"]


def to_jax(arrays: Mapping[str, npt.NDArray[Any]]) -> dict[str, Any]:
    """Each array as a ``jax.Array`` of the same shape and dtype on the default device; bfloat16 stays bfloat16.

    Copies: a jax.Array never changes, whatever becomes of the numpy one.

    Raises ImportError, naming the extra to install, where jax is missing.
    """
    jnp = extra("jax.numpy", "to_jax", "jax")
    return {name: jnp.array(array) for name, array in arrays.items()}
