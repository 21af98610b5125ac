"""From a trained net to what a server needs of it: a model spec and a w, which make exactly the net's weights."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from weightloom.errors import InvalidInput
from weightloom.fabric.kinds import BaseTensorSpec, Identity
from weightloom.fabric.spec import ModelSpec

from weightloom_client.torch.parametrization import Fabricated, fabricated_in

__all__ = ["model_spec", "w_of"]


def model_spec(net: nn.Module, name: str) -> ModelSpec:
    """The model called ``name`` whose tensors are those of ``net``, by their plain names ("fc.weight"), in its order.

    Fabricated tensors come with their own spec, other floating-point parameters and buffers as kind identity. Left out
    are what is not floating-point (such as num_batches_tracked), buffers that the state_dict leaves out, and the
    further names of a tied fabricated tensor. The file of this spec and ``w_of(net)`` equals a float32 net bit for bit,
    and one that is float16 or bfloat16 throughout where it is served in that dtype; float64 is rounded.

    Raises InvalidInput where fabricated tensors have different seeds, lie under another name than their spec has, or
    share the net with other parametrisations; InvalidSpec for a bad name or an empty tensor.
    """
    tensors: list[BaseTensorSpec] = []
    seeds: set[int] = set()
    for tensor, value, fabricated in _tensors(net):
        if fabricated is not None:
            seeds.add(fabricated.seed)
            tensors.append(fabricated.spec)
        else:
            tensors.append(Identity(name=tensor, shape=tuple(value.shape), kind="identity"))
    if len(seeds) > 1:
        raise InvalidInput.at("seed", f"seeds {sorted(seeds)}", "one seed for all fabricated tensors of a net")
    return ModelSpec.from_value({"name": name, "seed": str(max(seeds, default=0)), "tensors": tuple(tensors)})


def w_of(net: nn.Module) -> dict[str, npt.NDArray[np.float32]]:
    """The w's that go with ``model_spec(net, …)``: by tensor name a copy, float32 (l,) or, for identity, (numel,)."""
    return {name: value.detach().to("cpu", torch.float32).flatten().numpy().copy() for name, value, _ in _tensors(net)}


def _tensors(net: nn.Module) -> Iterator[tuple[str, torch.Tensor, Fabricated | None]]:
    """(plain name, tensor or w, its parametrisation) in the state_dict's order."""
    found = _fabricated(net)
    done: set[int] = set()
    for key, value in net.state_dict(keep_vars=True).items():
        if key not in found:
            if isinstance(value, torch.Tensor) and value.is_floating_point():
                yield key, value, None
            continue
        name, fabricated = found[key]
        if id(value) not in done:
            _check_name(name, fabricated)
            yield name, value, fabricated
        done.add(id(value))


def _fabricated(net: nn.Module) -> dict[str, tuple[str, Fabricated]]:
    """By their keys in the state_dict: fabricated tensors' plain names and parametrisations."""
    found: dict[str, Any] = {}
    for prefix, module in net.named_modules(remove_duplicate=False):
        at = f"{prefix}." if prefix else ""
        for parameter, fabricated, _ in fabricated_in(module):
            found[f"{at}parametrizations.{parameter}.original"] = f"{at}{parameter}", fabricated
    return found


def _check_name(name: str, fabricated: Fabricated) -> None:
    if name != fabricated.spec.name:
        raise InvalidInput.at(f"name of the fabricated tensor {name!r}", repr(fabricated.spec.name), repr(name))
