"""What a call wants made, in the form that all transports take."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import index
from typing import TYPE_CHECKING, Any, TypeAlias, TypedDict, Unpack

import numpy as np
import numpy.typing as npt

from weightloom_client.arrays import float32_of

if TYPE_CHECKING:
    from weightloom.fabric import ModelSpec
    from weightloom.requests import FabricateRequest

    from weightloom_client.bundle import Bundle

__all__ = ["AnyModel", "Options", "W", "Wanted"]

AnyModel: TypeAlias = "str | ModelSpec | Bundle | Mapping[str, Any]"
W = Mapping[str, npt.ArrayLike]


class Options(TypedDict, total=False):
    """What a call may say of the file: see ``Client``."""

    dtype: str
    tensors: Collection[str] | None
    rows: Mapping[str, Sequence[int]] | None


@dataclass(frozen=True, eq=False)
class Wanted:
    """The file of ``model`` (a name or digest, or a spec) for ``w``: float32 (l,) or (B, l) by tensor."""

    model: str | ModelSpec
    w: Mapping[str, npt.NDArray[np.float32]]
    dtype: str = "F32"
    tensors: Collection[str] | None = None
    rows: Mapping[str, tuple[int, int]] | None = None

    @classmethod
    def of(cls, model: AnyModel, w: W | None, **options: Unpack[Options]) -> Wanted:
        """From what users give: w's in any library's arrays, a spec as JSON has it, or a bundle that has both."""
        source, w = _source(model, w)
        arrays = {name: float32_of(f"w[{name!r}]", values) for name, values in (w or {}).items()}
        if unknown := options.keys() - Options.__annotations__.keys():
            raise TypeError(f"got the option {min(unknown)!r}, expected only {', '.join(Options.__annotations__)}")
        tensors, rows = options.get("tensors"), options.get("rows") or {}
        if isinstance(tensors, str):
            raise TypeError(f"tensors: got the text {tensors!r}, expected a collection of names")
        pairs = {name: (index(first), index(last)) for name, (first, last) in rows.items()}
        return cls(source, arrays, str(options.get("dtype", "F32")), tensors, pairs or None)

    @cached_property
    def request(self) -> FabricateRequest:
        """The same as the server's own class. Raises InvalidSelection for an unknown dtype."""
        from weightloom.fabric.dtypes import parse_dtype
        from weightloom.requests import FabricateRequest

        return FabricateRequest(self.model, self.w, parse_dtype(self.dtype), self.tensors, self.rows)

    @cached_property
    def _form(self) -> tuple[bytes, dict[str, list[str]]]:
        from weightloom.requests import request_to_safetensors

        return request_to_safetensors(self.request)

    @property
    def body(self) -> bytes:
        """A safetensors file of the w's, with an inline spec in its metadata."""
        return self._form[0]

    @property
    def options(self) -> dict[str, list[str]]:
        """The rest of the request, as a URL's query has it."""
        return self._form[1]


def _source(model: Any, w: W | None) -> tuple[Any, W | None]:
    if isinstance(model, Mapping):
        from weightloom.fabric import ModelSpec

        return ModelSpec.from_value(dict(model)), w
    if not isinstance(model, str) and hasattr(model, "spec"):
        return model.spec, model.w if w is None else w
    return model, w
