"""Model specs for users: made from a module's ``state_dict``, or from names and shapes; and the w's that are known."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Self, cast

import numpy as np
import numpy.typing as npt
from weightloom.errors import InvalidSpec, InvalidW, Violation
from weightloom.fabric import ModelSpec as FabricSpec
from weightloom.fabric.vectors import as_float32

from weightloom_client.arrays import float32_of, state_of
from weightloom_client.kinds import Kinds, Scale, TensorKinds

__all__ = ["ModelSpec", "identity_w"]


class ModelSpec(FabricSpec):
    """The fabric's ModelSpec with ways to make one; equal to the fabric's of the same digest."""

    @classmethod
    def from_module(
        cls,
        module: Any,
        *,
        name: str,
        seed: int,
        l: int = 64,
        r: int = 64,
        hidden_dim: int = 128,
        scale: Scale = "like",
        kinds: Kinds | None = None,
    ) -> Self:
        """A spec of the floating tensors of ``module``: anything with ``state_dict()``, or a mapping to arrays.

        Floats of two or more dimensions become random_matrix_hypernet, other floats identity; integers (counters such
        as num_batches_tracked) are always left out. kinds: fnmatch patterns of names, the first that matches wins, to
        "random_matrix_hypernet", "identity", "zeros", "ones", "eye", a dict of parameters such as {"l": 16, "r": 8}
        or {"kind": "constant", "value": "eye"}, or None, which leaves the tensor out. l, r and hidden_dim are shared by
        all hypernets, whose sizes a dict may change. scale: a number, or "like": W's standard deviation is about that
        of the module's tensor (see ``kinds.like_scale``).

        Tied tensors stand under each of their names, as they do in the state_dict, and would become different W's:
        leave out all but one name with None. Raises InvalidSpec, which names the tensor and what is wrong.
        """
        defaults = {"l": l, "r": r, "hidden_dim": hidden_dim, "scale": scale}
        return cls._of(name, seed, TensorKinds(kinds or {}, defaults).specs(state_of(module)))

    @classmethod
    def from_shapes(
        cls,
        shapes: Mapping[str, Sequence[int]],
        *,
        name: str,
        seed: int,
        l: int = 64,
        r: int = 64,
        hidden_dim: int = 128,
        scale: float = 1.0,
        kinds: Kinds | None = None,
    ) -> Self:
        """As ``from_module``, for floats of these shapes. No values are there, so scale cannot be "like"."""
        defaults = {"l": l, "r": r, "hidden_dim": hidden_dim, "scale": scale}
        tensors = {tensor: tuple(shape) for tensor, shape in shapes.items()}
        return cls._of(name, seed, TensorKinds(kinds or {}, defaults).specs(tensors))

    @classmethod
    def _of(cls, name: str, seed: int, tensors: Sequence[Mapping[str, Any]]) -> Self:
        try:
            return cast(Self, cls.from_value({"name": name, "seed": seed, "tensors": tensors}))
        except InvalidSpec as error:
            raise _naming(error, tensors) from error

    def __eq__(self, other: object) -> bool:
        return isinstance(other, FabricSpec) and self.digest == other.digest

    __hash__ = FabricSpec.__hash__


def identity_w(spec: FabricSpec, state: Any) -> dict[str, npt.NDArray[np.float32]]:
    """The w's of all identity tensors of ``spec``, taken from a module or a mapping of names to arrays.

    Returns copies, float32 (numel,). Raises InvalidW where a tensor is missing, of another shape, or not finite.
    """
    tensors, w = state_of(state), {}
    for tensor in spec.tensors:
        if tensor.kind != "identity":
            continue
        field = f"w[{tensor.name!r}]"
        if tensor.name not in tensors:
            raise InvalidW.at(field, "nothing", f"a tensor of shape {list(tensor.shape)}", code="w_missing")
        values = float32_of(field, tensors[tensor.name])
        if values.shape != tensor.shape:
            raise InvalidW.at(
                field, f"shape {list(values.shape)}", f"shape {list(tensor.shape)}", code="w_wrong_length"
            )
        w[tensor.name] = as_float32({tensor.name: values.reshape(-1)})[tensor.name][0]
    return w


def _naming(error: InvalidSpec, tensors: Sequence[Mapping[str, Any]]) -> InvalidSpec:
    """The same error with tensors[NAME] where it says tensors[number]."""

    def named(found: re.Match[str]) -> str:
        return f"tensors[{tensors[int(found[1])]['name']!r}]"

    violations = [Violation(re.sub(r"^tensors\[(\d+)\]", named, v.field), v.got, v.expected) for v in error.violations]
    return InvalidSpec("; ".join(map(str, violations[:3])), violations=violations)
