"""Which tensors of a model, and which of their rows, go into a file."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from weightloom.errors import InvalidSelection
from weightloom.fabric.kinds import BaseTensorSpec
from weightloom.fabric.spec import ModelSpec

__all__ = ["Selected", "select"]


@dataclass(frozen=True)
class Selected:
    """Rows ``first`` ... ``last - 1`` along the first dimension of a tensor; all of a tensor without dimensions."""

    spec: BaseTensorSpec
    first: int
    last: int

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """Shape of the part that is selected."""
        return (self.last - self.first, *self.spec.shape[1:]) if self.spec.shape else ()

    @cached_property
    def start(self) -> int:
        """Number of the first selected element in row-major order."""
        return self.first * math.prod(self.spec.shape[1:])

    @cached_property
    def count(self) -> int:
        """Number of selected elements."""
        return math.prod(self.shape)


def select(
    model: ModelSpec, tensors: Collection[str] | None = None, rows: Mapping[str, Sequence[int]] | None = None
) -> list[Selected]:
    """The selected parts in model order. ``tensors`` None means all; ``rows`` gives [a, b) by tensor name.

    Raises InvalidSelection for an unknown name, an empty selection, or rows outside of the tensor.
    """
    wanted = set(tensors) if tensors is not None else None
    if wanted is not None and not wanted:
        raise InvalidSelection.at("tensors", "an empty list", "at least one name, or no field for all of them")
    _check_names(model, wanted or set(), "tensors")
    _check_names(model, rows or {}, "rows")
    chosen = [spec for spec in model.tensors if wanted is None or spec.name in wanted]
    if unused := set(rows or {}) - {spec.name for spec in chosen}:
        raise InvalidSelection.at("rows", sorted(unused)[0], "only names of selected tensors")
    return [_rows_of(spec, (rows or {}).get(spec.name)) for spec in chosen]


def _check_names(model: ModelSpec, names: Collection[str], field: str) -> None:
    for name in names:
        if name not in model.by_name:
            raise InvalidSelection.at(field, repr(name), f"names of tensors of model {model.name!r}")


def _rows_of(spec: BaseTensorSpec, rows: Sequence[int] | None) -> Selected:
    n = spec.shape[0] if spec.shape else 1
    if rows is None:
        return Selected(spec, 0, n)
    expected = f"[a, b] with 0 <= a < b <= {n}" if spec.shape else "no rows for a tensor without dimensions"
    if not spec.shape or len(rows) != 2 or not 0 <= rows[0] < rows[1] <= n:
        raise InvalidSelection.at(f"rows[{spec.name!r}]", list(rows), expected, code="rows_out_of_range")
    return Selected(spec, rows[0], rows[1])
