"""Fetched weights into torch: as tensors that share memory, or into a module by the names of its state_dict."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn.utils import parametrize
from torch.nn.utils.parametrize import ParametrizationList
from weightloom.errors import InvalidInput, Violation

from weightloom_client.torch.parametrization import Fabricated

__all__ = ["load_into", "to_torch"]

Arrays = Mapping[str, npt.NDArray[Any]]


def to_torch(arrays: Arrays) -> dict[str, torch.Tensor]:
    """CPU tensors of the same shapes and dtypes that share the arrays' memory; ml_dtypes' bfloat16 becomes torch's.

    Arrays that torch cannot share (read-only ones, and those with negative strides) are copied.
    """
    return {name: _tensor(array) for name, array in arrays.items()}


def load_into(module: torch.nn.Module, arrays: Arrays, *, strict: bool = True, assign: bool = False) -> None:
    """Fill ``module``'s parameters and buffers from ``arrays``, by the names of its state_dict.

    Numbers are copied into what is there, so dtype and device stay the module's. assign: the module takes the arrays'
    memory and dtype (on the CPU) instead; for modules on the meta device. strict: every floating tensor must come, and
    nothing else may; integers, which no file of weights holds, are never missed. A parametrised tensor may come under
    its plain name where its parametrisation can be inverted (then to rounding) and is not on the meta device. Of tied
    tensors one name is enough, and they stay tied. Raises InvalidInput, with all that is missing, unexpected or
    misfits, before anything is changed.
    """
    state = {n: t for n, t in module.state_dict(keep_vars=True).items() if isinstance(t, torch.Tensor)}
    plain, parametrised = _split(module, arrays, state)
    covered = {id(state[name]) for name in plain} | {id(t) for made in parametrised.values() for t in _parts(made)}
    problems = [problem for name in plain for problem in _misfits(name, arrays[name], state[name], assign)]
    problems += [problem for name, made in parametrised.items() for problem in _not_made(name, arrays[name], made)]
    problems += _ties(arrays, state, plain)
    if strict:
        unknown = [name for name in arrays if name not in state and name not in parametrised]
        problems += [Violation(name, "an array", "only names of the module") for name in unknown]
        missing = [n for n, t in state.items() if t.is_floating_point() and id(t) not in covered]
        problems += [Violation(name, "nothing", f"shape {list(state[name].shape)}") for name in missing]
    if problems:
        raise InvalidInput("; ".join(map(str, problems)), violations=problems)
    _load(module, {name: arrays[name] for name in plain}, state, assign)
    _set_parametrised(module, {name: arrays[name] for name in parametrised})


def _tensor(array: npt.NDArray[Any]) -> torch.Tensor:
    if not array.flags.writeable or any(stride < 0 for stride in array.strides):
        array = array.copy()
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def _split(
    module: torch.nn.Module, arrays: Arrays, state: Mapping[str, torch.Tensor]
) -> tuple[list[str], dict[str, ParametrizationList]]:
    """Names that are in the state_dict, and for those that stand for a parametrised tensor what makes it."""
    parametrised = {}
    owners: dict[str, Any] = dict(module.named_modules(remove_duplicate=False))
    for name in arrays:
        path, _, last = name.rpartition(".")
        owner = owners.get(path) if name not in state else None
        if owner is not None and parametrize.is_parametrized(owner, last):
            parametrised[name] = owner.parametrizations[last]
    return [name for name in arrays if name in state], parametrised


def _parts(made: ParametrizationList) -> list[torch.Tensor]:
    """What the tensor is made from, which is not missing when it comes itself."""
    return [part for part in made.state_dict(keep_vars=True).values() if isinstance(part, torch.Tensor)]


def _not_made(name: str, array: npt.NDArray[Any], made: ParametrizationList) -> Iterator[Violation]:
    """What keeps a parametrised tensor from being set to the array."""
    fixed = [type(step).__name__ for step in made if isinstance(step, Fabricated) or not hasattr(step, "right_inverse")]
    if fixed:
        expected = "no value (no right_inverse); call torch.nn.utils.parametrize.remove_parametrizations first"
        yield Violation(name, f"a tensor parametrised by {fixed[0]}", expected)
    elif any(part.is_meta for part in _parts(made)):
        expected = "a module with memory, or with assign=True the tensors that the state_dict has for it"
        yield Violation(name, "a parametrised tensor on the meta device", expected)
    else:
        with torch.no_grad():
            value = made()
        yield from _misfits(name, array, value, assign=False)


def _misfits(name: str, array: npt.NDArray[Any], tensor: torch.Tensor, assign: bool) -> Iterator[Violation]:
    if array.shape != tuple(tensor.shape):
        yield Violation(name, f"shape {list(array.shape)}", f"shape {list(tensor.shape)}")
    elif tensor.is_floating_point() != (array.dtype.kind == "f" or array.dtype.name == "bfloat16"):
        yield Violation(name, str(array.dtype), str(tensor.dtype))
    elif tensor.is_meta and not assign:
        yield Violation(name, "a module on the meta device", "assign=True, or a module with memory")


def _ties(arrays: Arrays, state: Mapping[str, torch.Tensor], names: Iterable[str]) -> Iterator[Violation]:
    """Where two names are one tensor of the module and their arrays differ."""
    first: dict[int, str] = {}
    for name in names:
        other = first.setdefault(id(state[name]), name)
        if other != name and not np.array_equal(arrays[name], arrays[other]):
            yield Violation(name, "other numbers", f"those of {other!r}, to which the module ties it")


def _load(module: torch.nn.Module, arrays: Arrays, state: Mapping[str, torch.Tensor], assign: bool) -> None:
    """Tied names get one object, without which ``assign`` would untie them."""
    filled: dict[int, torch.Tensor] = {}
    for name, tensor in to_torch(arrays).items():
        target = state[name]
        wrapped = isinstance(target, torch.nn.Parameter)
        filled[id(target)] = torch.nn.Parameter(tensor, requires_grad=target.requires_grad) if wrapped else tensor
    given = {name: filled[id(tensor)] for name, tensor in state.items() if id(tensor) in filled}
    module.load_state_dict(given, strict=False, assign=assign)


def _set_parametrised(module: torch.nn.Module, arrays: Arrays) -> None:
    with torch.no_grad():
        for name, tensor in to_torch(arrays).items():
            path, _, last = name.rpartition(".")
            owner = module.get_submodule(path)
            value = getattr(owner, last)
            setattr(owner, last, tensor.to(value.device, value.dtype))
