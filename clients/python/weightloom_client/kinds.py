"""Which kind each tensor of a module becomes: patterns of names to kinds, and a scale like the module's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Literal

import numpy as np
from weightloom.errors import InvalidSpec, WeightloomError

from weightloom_client.arrays import float32_of

__all__ = ["Kinds", "Scale", "TensorKinds", "like_scale"]

Kind = str | Mapping[str, Any] | None
Kinds = Mapping[str, Kind]
Scale = float | Literal["like"]

HYPERNET = "random_matrix_hypernet"
CONSTANTS = ("zeros", "ones", "eye")
NAMES = (HYPERNET, "identity", *CONSTANTS)
NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(64)


def like_scale(deviation: float, r: int, hidden_dim: int) -> float:
    """The scale at which W has about the standard deviation ``deviation``, for a w like N(0, 1) / sqrt(l).

    Then b_m ~ N(0, r), so E[h_k^2] = scale^2 hidden_dim E[sigmoid(b)^2], and W's variance is |h|^2, the sum over r. One
    seed's W is off by a factor of about 1 ± 1 / sqrt(2 r). The w hardly matters: E[sigmoid^2] lies in 1/4 ... 1/2.
    """
    sigmoid = 1 / (1 + np.exp(-np.sqrt(r) * NODES))
    mean_square = float(WEIGHTS @ sigmoid**2 / WEIGHTS.sum())
    return float(deviation / np.sqrt(r * hidden_dim * mean_square))


@dataclass(frozen=True)
class TensorKinds:
    """``kinds`` (patterns, first match wins) and the parameters that a hypernet has where its pattern gives none."""

    kinds: Kinds
    defaults: Mapping[str, Any]

    def specs(self, state: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Tensor specs as JSON has them, in the order of ``state``.

        Raises InvalidSpec for a pattern that matches no name, and for what cannot be in a file of floats.
        """
        for pattern in self.kinds:
            if not any(fnmatchcase(name, pattern) for name in state):
                expected = f"one for names such as {next(iter(state), 'none, there are no tensors')!r}"
                raise InvalidSpec.at(f"kinds[{pattern!r}]", "a pattern that matches no tensor", expected)
        return [spec for name, tensor in state.items() if (spec := self._spec(name, tensor)) is not None]

    def _spec(self, name: str, tensor: Any) -> dict[str, Any] | None:
        matching = [pattern for pattern in self.kinds if fnmatchcase(name, pattern)]
        if matching and self.kinds[matching[0]] is None:
            return None
        shape, dtype = _shape_and_dtype(name, tensor)
        if "int" in dtype or "bool" in dtype:
            return None
        if "float" not in dtype:
            raise _wrong(name, f"dtype {dtype}", "floats or integers; None in kinds leaves a tensor out")
        kind = self.kinds[matching[0]] if matching else HYPERNET if len(shape) > 1 else "identity"
        fields = _fields(kind, f"kinds[{matching[0]!r}]" if matching else name)
        fields |= {"name": name, "shape": list(shape)}
        return self._completed(fields, tensor) if fields["kind"] == HYPERNET else fields

    def _completed(self, fields: dict[str, Any], tensor: Any) -> dict[str, Any]:
        full = {**fields, **{key: value for key, value in self.defaults.items() if key not in fields}}
        if full["scale"] == "like":
            counts = [full["r"], full["hidden_dim"]]
            usable = all(type(count) is int and count > 0 for count in counts)  # else the fabric says what is wrong
            full["scale"] = like_scale(_deviation(full["name"], tensor), *counts) if usable else 1.0
        return full


def _shape_and_dtype(name: str, tensor: Any) -> tuple[tuple[int, ...], str]:
    """A tensor's, or a bare shape's, which stands for float32."""
    if isinstance(tensor, tuple | list):
        return tuple(tensor), "float32"
    if not (hasattr(tensor, "shape") and hasattr(tensor, "dtype")):
        raise _wrong(name, type(tensor).__name__, "a tensor; None in kinds leaves an entry out")
    return tuple(int(n) for n in tensor.shape), str(tensor.dtype)


def _fields(kind: Kind, field: str) -> dict[str, Any]:
    if isinstance(kind, Mapping):
        return {"kind": HYPERNET, **kind}
    if kind in CONSTANTS:
        return {"kind": "constant", "value": kind}
    if kind not in NAMES:
        raise InvalidSpec.at(field, repr(kind), f"one of {', '.join(NAMES)}, a dict of parameters, or None")
    return {"kind": kind}


def _deviation(name: str, tensor: Any) -> float:
    """Raises InvalidSpec where there are no values, or none that a scale could follow from."""
    expected = "values that differ, for scale='like'; give {'scale': number} for it in kinds"
    if not hasattr(tensor, "shape"):
        raise _wrong(name, "a shape without values", expected)
    try:
        with np.errstate(invalid="ignore"):  # of infinities
            deviation = float(float32_of(name, tensor).std(dtype=np.float64))
    except WeightloomError as error:  # a meta tensor, for one
        raise _wrong(name, f"no values ({error.violations[0].got})", expected) from error
    if not 0 < deviation < np.inf:
        raise _wrong(name, f"standard deviation {deviation}", expected)
    return deviation


def _wrong(name: str, got: str, expected: str) -> WeightloomError:
    return InvalidSpec.at(f"tensors[{name!r}]", got, expected)
