"""What is in a tinyBIG object, live or read from a pickle: its heads, their functions, and other parameters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from weightloom.errors import InvalidInput

from weightloom_client.torch.tinybig.factors import Hypernet, at, positive

__all__ = ["HYPERNET", "Found", "Use", "found_in"]

HYPERNET = "random_matrix_hypernet_reconciliation"
MAX_DEPTH = 32  # of modules in modules


@dataclass(frozen=True)
class Use:
    """A head's use of a function at ``path`` of the model: W's rows, the head's inputs, and D where it is given."""

    function: Any
    path: str
    n: int
    m: int
    D: int | None = None

    def shape(self, hypernet: Hypernet) -> tuple[int, int]:
        """(n, D) of the W's that the hypernet makes. Raises InvalidInput where T has not n D rows."""
        D = hypernet.numel // self.n if self.D is None else self.D
        if self.n * D != hypernet.numel or D == 0:
            expected = f"{self.n * D}, n D" if self.D else f"a multiple of n, {self.n}"
            raise InvalidInput.at(at(self.path, "T"), f"{hypernet.numel} rows", expected)
        return self.n, D


@dataclass(frozen=True)
class Found:
    """A parameter or buffer by its name in the state_dict; a w of a hypernet also has the head's use of it."""

    name: str
    value: Any
    use: Use | None = None


def found_in(module: Any, path: str = "", depth: int = 0) -> Iterator[Found]:
    """All parameters and buffers in the order of the state_dict.

    Raises InvalidInput for functions with frozen numbers that no spec can hold: a hypernet that is no head's
    parameter_fabrication, and others that keep tensors outside of their parameters and buffers.
    """
    if depth > MAX_DEPTH:
        raise InvalidInput.at("source", f"modules within modules: {path}", f"at most {MAX_DEPTH} of them")
    parts = _table(module, "_modules", path)
    function = parts.get("parameter_fabrication")
    use = _use(module, function, path) if type(function).__name__ == HYPERNET else None
    for name, value in _own(module, path):
        yield Found(path + name, value, use if name == "w" else None)
    for name, part in parts.items():
        if part is None or (use is not None and part is function):
            continue
        _check_no_factors(part, path + name)
        yield from found_in(part, f"{path}{name}.", depth + 1)


def _use(head: Any, function: Any, path: str) -> Use:
    """tinyBIG's grid heads have W's rows in out_channel, all others in n."""
    field = f"{path}parameter_fabrication"
    if not isinstance(_table(head, "_parameters", path).get("w"), torch.Tensor):
        raise InvalidInput.at(field, HYPERNET, "one of a head, which has the w for it")
    n = positive(head, "out_channel" if hasattr(head, "out_channel") else "n", path.removesuffix("."))
    return Use(function, field, n, positive(head, "m", path.removesuffix(".")))


def _table(module: Any, name: str, path: str) -> Mapping[str, Any]:
    """_parameters, _buffers or _modules, which every torch module has."""
    value = getattr(module, name, None)
    if not (isinstance(value, Mapping) and all(isinstance(key, str) for key in value)):
        expected = "a tinyBIG function, head, layer or model, or a path or bytes of a pickle of one"
        raise InvalidInput.at(path.removesuffix(".") or "source", type(module).__name__, expected)
    return value


def _own(module: Any, path: str) -> Iterator[tuple[str, torch.Tensor]]:
    """Floating-point parameters and buffers of the module itself, less buffers that the state_dict leaves out."""
    left_out = getattr(module, "_non_persistent_buffers_set", None)
    for kind in ("_parameters", "_buffers"):
        for name, value in _table(module, kind, path).items():
            if (
                isinstance(value, torch.Tensor)
                and value.is_floating_point()
                and not (isinstance(left_out, set) and name in left_out)
            ):
                yield name, value


def _check_no_factors(part: Any, path: str) -> None:
    """A hypernet is no part but of a head; of other functions tensors are lost that are no parameters and buffers."""
    kind = type(part).__name__
    if kind == HYPERNET:
        raise InvalidInput.at(path, kind, "none but a head's parameter_fabrication")
    if not path.endswith("parameter_fabrication"):
        return
    for name, value in getattr(part, "__dict__", {}).items():
        if isinstance(value, torch.Tensor):
            expected = f"{HYPERNET}, or a function that keeps no numbers besides its parameters and buffers"
            raise InvalidInput.at(path, f"{kind} with {name}", expected)
