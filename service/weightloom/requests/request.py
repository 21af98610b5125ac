"""What the engine is asked, free of any transport."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy.typing as npt

from weightloom.fabric import DType, ModelSpec

__all__ = ["FabricateRequest"]


NAME_BYTES = 512  # what a form takes for each name in it


@dataclass(slots=True, eq=False)
class FabricateRequest:
    """Make the file of a model for a w, or the ``length`` bytes of it from ``offset`` on (None: to its end).

    model: a name or digest that is registered, or a whole spec. form: equal for requests that differ in the numbers of
    their w's only; given where such requests are recognised cheaply, else found from the other fields. The other fields
    are those of ``VirtualFile``. form_bytes: memory that the form takes, about (given: beyond its names).
    """

    model: str | ModelSpec
    w: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)
    dtype: DType = DType.F32
    tensors: Collection[str] | None = None
    rows: Mapping[str, Sequence[int]] | None = None
    offset: int = 0
    length: int | None = None
    form: Hashable = None
    form_bytes: int = 0

    def __post_init__(self) -> None:
        self.form_bytes += NAME_BYTES * (1 + len(self.w) + len(self.tensors or ()) + len(self.rows or ()))
        if self.form is None:
            tensors = None if self.tensors is None else tuple(self.tensors)
            rows = tuple((name, *ends) for name, ends in (self.rows or {}).items())
            shapes = tuple((name, values.shape) for name, values in self.w.items())
            self.form = self.dtype, tensors, rows, self.offset, self.length, shapes
