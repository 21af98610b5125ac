"""Makes the weights of a net, or one of them, fabricated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from itertools import chain
from typing import NamedTuple, TypeVar

from torch import nn
from weightloom.errors import InvalidInput
from weightloom.fabric.kinds import RandomMatrixHypernet

from weightloom_client.torch.initial import initial_w, kaiming_std, started
from weightloom_client.torch.parametrization import Fabricated, attach, check_module

__all__ = ["fabricate_module", "fabricate_parameter"]

T = TypeVar("T")

KINDS = ("random_matrix_hypernet", "identity")


def fabricate_module(
    net: nn.Module,
    *,
    seed: int,
    l: int = 64,
    r: int = 64,
    hidden_dim: int = 128,
    kinds: Mapping[str, str] | None = None,
    stds: Mapping[str, float] | None = None,
) -> nn.Module:
    """Make weights of ``net`` fabricated, in place, and return it; their old values are lost.

    Parameters of two dimensions or more are fabricated, others stay as they are, unless ``kinds`` says otherwise: from
    patterns of names (fnmatch, of state_dict names like "layers.0.weight") to "random_matrix_hypernet" or "identity"
    (stays as it is); the first that matches counts. stds: likewise from patterns to the standard deviation that W
    starts with; else it is 1 for an embedding and 1 / sqrt(3 fan_in) for others, as torch's own layers start.

    Parameters that are tied stay so, under their first name. Raises InvalidInput, and has changed nothing then, for an
    unknown kind, a net that has parametrisations already, and modules whose weight cannot be fabricated.
    """
    chosen = kinds or {}
    if unknown := [kind for kind in chosen.values() if kind not in KINDS]:
        raise InvalidInput.at("kinds", repr(unknown[0]), "one of " + ", ".join(KINDS))
    groups = [uses for uses in _tensors(net) if _first(chosen, uses[0].name, KINDS[uses[0].ndim < 2]) == KINDS[0]]
    for name, module, *_ in chain.from_iterable(groups):
        check_module(module, name)
    for (name, module, parameter, _), *others in groups:
        std = _first(stds or {}, name, _usual_std(module, getattr(module, parameter).shape))
        fabricated = fabricate_parameter(module, parameter, name, seed, (l, r, hidden_dim), None, std)
        for other in others:
            fabricated.restart(getattr(other.module, other.parameter))
            attach(other.module, other.parameter, fabricated)
    return net


class _Use(NamedTuple):
    name: str  # in the state_dict
    module: nn.Module
    parameter: str  # name in the module
    ndim: int


def _tensors(net: nn.Module) -> list[list[_Use]]:
    """For each parameter of a net its uses: more than one where it is tied."""
    uses: dict[int, list[_Use]] = {}
    for prefix, module in net.named_modules():
        for name, tensor in module._parameters.items():
            if tensor is not None:
                use = _Use(f"{prefix}.{name}" if prefix else name, module, name, tensor.ndim)
                uses.setdefault(id(tensor), []).append(use)
    return [*uses.values()]


def _first(patterns: Mapping[str, T], name: str, default: T) -> T:
    return next((value for pattern, value in patterns.items() if fnmatchcase(name, pattern)), default)


def _usual_std(module: nn.Module, shape: Sequence[int]) -> float:
    return 1.0 if isinstance(module, nn.Embedding | nn.EmbeddingBag) else kaiming_std(tuple(shape))


def fabricate_parameter(
    module: nn.Module,
    parameter: str,
    name: str,
    seed: int,
    sizes: tuple[int, int, int],
    scale: float | None,
    std: float | None = None,
) -> Fabricated:
    """Fabricate one parameter of a module, from the scale that is given or else from the std to start with."""
    check_module(module, name)
    l, r, hidden_dim = sizes
    shape = tuple(getattr(module, parameter).shape)
    spec = RandomMatrixHypernet(
        name=name, shape=shape, l=l, r=r, hidden_dim=hidden_dim, scale=1.0 if scale is None else scale
    )
    w = initial_w(name, seed, l, r)
    if scale is None:
        spec, w = started(spec, seed, _usual_std(module, shape) if std is None else std)
    fabricated = Fabricated(spec, seed, w)
    attach(module, parameter, fabricated)
    return fabricated
