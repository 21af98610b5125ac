"""Imported factors for tests: those that a drawn model has, so that the known answers are theirs too."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from weightloom.fabric.factors import Factors
from weightloom.fabric.streams import normals

__all__ = ["blob_of", "imported", "sha256_of"]


def blob_of(factors: Factors) -> bytes:
    """P, Q, S and T end to end."""
    sizes = (*factors.pqs_sizes, factors.numel * factors.r)
    streams = (factors.p, factors.q, factors.s, factors.t)
    parts: list[npt.NDArray[np.float32]] = [normals(s, 0, n) for s, n in zip(streams, sizes, strict=True)]
    return b"".join(part.astype("<f4").tobytes() for part in parts)


def sha256_of(blob: bytes) -> str:
    """The name by which it is known."""
    return hashlib.sha256(blob).hexdigest()


def imported(tensor: Mapping[str, Any], blob: bytes) -> dict[str, Any]:
    """The JSON spec of a drawn tensor with the factors of ``blob`` instead."""
    return {**tensor, "kind": "imported_hypernet", "factors_sha256": sha256_of(blob)}
