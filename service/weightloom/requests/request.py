"""What the engine is asked, free of any transport."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy.typing as npt

from weightloom.fabric import DType, ModelSpec

__all__ = ["FabricateRequest"]


@dataclass(frozen=True)
class FabricateRequest:
    """Make the file of a model for a w, or the ``length`` bytes of it from ``offset`` on (None: to its end).

    model: a name or digest that is registered, or a whole spec. The other fields are those of ``VirtualFile``.
    """

    model: str | ModelSpec
    w: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)
    dtype: DType = DType.F32
    tensors: Collection[str] | None = None
    rows: Mapping[str, Sequence[int]] | None = None
    offset: int = 0
    length: int | None = None
