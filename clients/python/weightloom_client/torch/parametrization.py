"""A fabricated weight as a parametrisation (torch.nn.utils.parametrize): the module keeps w, its weight is W of w."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize
from weightloom.errors import InvalidInput
from weightloom.fabric.kinds import RandomMatrixHypernet

from weightloom_client.torch.checks import checked_seed
from weightloom_client.torch.functional import DTYPES, weave

__all__ = ["Fabricated", "attach", "check_module", "fabricated_in"]


class Fabricated(nn.Module):
    """w -> W of ``spec`` under ``seed``; it has no parameters of its own.

    To be registered with ``parametrize.register_parametrization(module, "weight", Fabricated(...), unsafe=True)``: the
    module's Parameter then becomes the w that is given here, of its dtype and on its device, and stays the same object,
    so that an optimizer which has it goes on; one with state of it (Adam after a step) must be made anew.

    Every use of ``module.weight`` makes W anew from the w of that moment. A module that uses its weight several times
    in one forward, as nn.MultiheadAttention does, is faster within ``parametrize.cached()``, where W is made once.
    Raises InvalidInput for a seed that is no integer of 64 bits.
    """

    def __init__(self, spec: RandomMatrixHypernet, seed: int, w: torch.Tensor) -> None:
        super().__init__()
        self.spec, self.seed = spec, checked_seed(seed)
        self._start: torch.Tensor | None = w.detach().clone()

    def forward(self, w: torch.Tensor) -> torch.Tensor:
        """W: (l,) -> spec.shape."""
        return weave(w, self.spec, self.seed)

    def right_inverse(self, weight: torch.Tensor) -> torch.Tensor:
        """The first w, at registration. Raises TypeError later: there is no w for just any weight that is assigned."""
        if self._start is None:
            raise TypeError(f"{self.spec.name!r} is fabricated and cannot be assigned; change its w instead")
        start, self._start = self._start, None
        weight.grad = None  # of the old values, and of their shape
        return start.to(weight.device, weight.dtype)

    def restart(self, w: torch.Tensor) -> None:
        """Be ready for one more registration, on a parameter that holds w already and keeps its memory."""
        self._start = w.detach()

    def extra_repr(self) -> str:
        """Name, sizes and seed."""
        spec = self.spec
        return f"{spec.name!r}, shape={list(spec.shape)}, l={spec.l}, r={spec.r}, seed={self.seed}"


def check_module(module: nn.Module, parameter: str, name: str) -> None:
    """Raise InvalidInput, naming the tensor ``name``, for a module that does not use its weight as one tensor W.

    Recurrent modules hold their weights in a list past any parametrisation; max_norm writes into rows of the weight;
    sparse gradients have nothing to gain where every row's gradient goes into one w.
    """
    if isinstance(module, nn.RNNBase | parametrize.ParametrizationList):
        raise InvalidInput.at(name, f"a weight in a {type(module).__name__}", "one that a plain module uses")
    if isinstance(module, nn.Embedding | nn.EmbeddingBag) and (module.sparse or module.max_norm is not None):
        raise InvalidInput.at(name, "an embedding with sparse or max_norm", "one without")
    if (dtype := getattr(module, parameter).dtype) not in DTYPES:
        raise InvalidInput.at(name, dtype, "float32, float64, float16 or bfloat16")


def attach(module: nn.Module, parameter: str, fabricated: Fabricated) -> None:
    """Register ``fabricated`` on a parameter of a module, which can be pickled then all the same."""
    parametrize.register_parametrization(module, parameter, fabricated, unsafe=True)
    kind: Any = type(module)  # which torch has made for this module alone
    kind.__reduce_ex__, kind.__copy__ = _reduce, _no_copy


def fabricated_in(module: nn.Module) -> Iterator[tuple[str, Fabricated, nn.Parameter]]:
    """Of this module itself: (parameter's name, its parametrisation, w). Raises InvalidInput for other ones."""
    if not parametrize.is_parametrized(module):
        return
    assert isinstance(module.parametrizations, nn.ModuleDict)
    for name, found in module.parametrizations.items():
        assert isinstance(found, parametrize.ParametrizationList)
        if len(found) != 1 or not isinstance(found[0], Fabricated):
            kinds = ", ".join(type(each).__name__ for each in found)
            raise InvalidInput.at(name, f"a parametrisation {kinds}", "none beside Fabricated, and that alone")
        w = found.original
        assert isinstance(w, nn.Parameter)
        yield name, found[0], w


def _no_copy(module: nn.Module) -> nn.Module:
    raise TypeError(f"a {type(module).__name__} is copied by copy.deepcopy: copies that share a w cannot be made")


def _reduce(module: nn.Module, protocol: int) -> tuple[Any, ...]:
    """Pickle the module as its own class without parametrisations, and what is to be registered again.

    torch refuses to pickle parametrised modules, as it makes a class for each of them on the fly.
    """
    state = module.__dict__ | {"_modules": {k: v for k, v in module._modules.items() if k != "parametrizations"}}
    parts = state, [*fabricated_in(module)]
    return _bare, (type(module).__bases__[0],), parts, None, None, _restore


def _bare(kind: type[nn.Module]) -> nn.Module:
    return kind.__new__(kind)


def _restore(module: nn.Module, parts: tuple[dict[str, Any], list[tuple[str, Fabricated, nn.Parameter]]]) -> None:
    state, fabricated = parts
    nn.Module.__setstate__(module, state)  # type: ignore[no-untyped-call]
    for name, each, w in fabricated:
        grad = w.grad
        module.register_parameter(name, w)
        each.restart(w)
        attach(module, name, each)
        w.grad = grad
