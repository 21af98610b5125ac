"""Makes the weights of a net, or one of them, fabricated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from itertools import chain
from typing import NamedTuple, TypeVar

from torch import nn
from weightloom.errors import InvalidInput

from weightloom_client.torch.checks import checked_seed, checked_spec
from weightloom_client.torch.initial import initial_w, started, usual_std
from weightloom_client.torch.parametrization import Fabricated, attach, check_module

__all__ = ["fabricate_module", "fabricate_parameter"]

T = TypeVar("T")
D = TypeVar("D")

KINDS = ("random_matrix_hypernet", "identity")
NORMS = (nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, nn.modules.batchnorm._NormBase)  # whose weights start as ones


def fabricate_module(
    net: nn.Module,
    *,
    seed: int,
    l: int = 64,
    r: int = 64,
    hidden_dim: int = 128,
    kinds: Mapping[str, str] | None = None,
    stds: Mapping[str, float] | None = None,
    gain: float = 1.0,
) -> nn.Module:
    """Make weights of ``net`` fabricated, in place, and return it; their old values are lost.

    Parameters of two dimensions or more are fabricated, others and those of norms stay as they are, unless ``kinds``
    says otherwise: from patterns of names (fnmatch, of state_dict names like "layers.0.weight") to
    "random_matrix_hypernet" or "identity" (stays as it is); the first that matches counts. stds: likewise from patterns
    to the standard deviation that W starts with. Else it is ``gain`` times the one of torch's own start for nn.Linear,
    convolutions, embeddings (1), nn.Bilinear, cells of recurrent nets and nn.MultiheadAttention, and nn.Linear's,
    1 / sqrt(3 fan_in), for the parameters of any others. Training goes best from a gain of 2 to 4: docs/training.md.

    An optimizer that has the parameters goes on, unless it has state of them already: make it anew then. Parameters
    that are tied stay so, under their first name. Tensors that are fabricated already stay as they are, so that calls
    with other sizes may each make a part of a net. Raises InvalidInput, and has changed nothing then, for an unknown
    kind, a bad seed, modules whose weight cannot be fabricated and the parts of other parametrisations; InvalidSpec,
    which is an InvalidInput, for sizes or an std that no spec may have, and for empty tensors.
    """
    chosen = kinds or {}
    if unknown := [kind for kind in chosen.values() if kind not in KINDS]:
        raise InvalidInput.at("kinds", repr(unknown[0]), "one of " + ", ".join(KINDS))
    groups = [uses for uses in _tensors(net) if _first(chosen, uses[0].name, uses[0].usual_kind) == KINDS[0]]
    for name, module, parameter, _ in chain.from_iterable(groups):
        check_module(module, parameter, name)
    seed, sizes = checked_seed(seed), (l, r, hidden_dim)
    made = []
    for use, *_ in groups:
        std = _first(stds or {}, use.name, gain * use.usual_std)
        made.append(_made(use.module, use.parameter, use.name, seed, sizes, None, std))
    for fabricated, uses in zip(made, groups, strict=True):  # only now, as all of it could be made
        _attach_all(fabricated, uses)
    return net


class _Use(NamedTuple):
    name: str  # in the state_dict
    module: nn.Module
    parameter: str  # name in the module
    shape: tuple[int, ...]

    @property
    def usual_kind(self) -> str:
        return KINDS[len(self.shape) < 2 or isinstance(self.module, NORMS)]

    @property
    def usual_std(self) -> float:
        return usual_std(self.module, self.shape)


def _tensors(net: nn.Module) -> list[list[_Use]]:
    """For each parameter of a net its uses: more than one where it is tied."""
    uses: dict[int, list[_Use]] = {}
    for prefix, module in net.named_modules():
        for name, tensor in module._parameters.items():
            if tensor is not None:
                use = _Use(f"{prefix}.{name}" if prefix else name, module, name, tuple(tensor.shape))
                uses.setdefault(id(tensor), []).append(use)
    return [*uses.values()]


def _first(patterns: Mapping[str, T], name: str, default: D) -> T | D:
    return next((value for pattern, value in patterns.items() if fnmatchcase(name, pattern)), default)


def _attach_all(fabricated: Fabricated, uses: Sequence[_Use]) -> None:
    for place, use in enumerate(uses):
        if place:
            fabricated.restart(getattr(use.module, use.parameter))
        attach(use.module, use.parameter, fabricated)


def fabricate_parameter(
    module: nn.Module, parameter: str, name: str, seed: int, sizes: tuple[int, int, int], scale: float | None
) -> None:
    """Fabricate one parameter of a module, from the scale that is given or else from the one of the usual spread."""
    check_module(module, parameter, name)
    attach(module, parameter, _made(module, parameter, name, seed, sizes, scale, None))


def _made(
    module: nn.Module,
    parameter: str,
    name: str,
    seed: int,
    sizes: tuple[int, int, int],
    scale: float | None,
    std: float | None,
) -> Fabricated:
    """Changes nothing in the module yet."""
    l, r, hidden_dim = sizes
    shape = tuple(getattr(module, parameter).shape)
    spec = checked_spec(name, shape=shape, l=l, r=r, hidden_dim=hidden_dim, scale=1.0 if scale is None else scale)
    w = initial_w(name, seed, l, r)
    if scale is None:
        spec, w = started(spec, seed, usual_std(module, shape) if std is None else std)
    return Fabricated(spec, seed, w)
