"""tinyBIG's own classes for a while: what they import besides torch and do not use here is stood in for."""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import sys
import types
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import torch

UNUSED = ("torchvision", "torchtext", "requests", "tqdm", "yaml", "tinybig.data", "tinybig.output")
CLASSES = {
    "head": "tinybig.module.base_head",
    "layer": "tinybig.module.base_layer",
    "rpn": "tinybig.model.rpn",
    "identity_expansion": "tinybig.expansion",
    "taylor_expansion": "tinybig.expansion",
    "zero_remainder": "tinybig.remainder",
    "linear_remainder": "tinybig.remainder",
    "grid_interdependence_head": "tinybig.head.grid_based_heads",
    "lorr_reconciliation": "tinybig.reconciliation",
    "random_matrix_adaption_reconciliation": "tinybig.reconciliation.random_matrix_reconciliation",
    "random_matrix_hypernet_reconciliation": "tinybig.reconciliation.random_matrix_reconciliation",
}


class StandIns(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds modules that are not needed: they have every name, and nothing in it."""

    def find_spec(self, name: str, path: object, target: object = None) -> importlib.machinery.ModuleSpec | None:
        """A module of ``UNUSED``."""
        return importlib.machinery.ModuleSpec(name, self, is_package=True) if _within(name, UNUSED) else None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        """An empty module in which every name is found."""
        module = types.ModuleType(spec.name)
        module.__getattr__ = lambda name: MagicMock()  # type: ignore[method-assign]
        return module

    def exec_module(self, module: types.ModuleType) -> None:
        """Nothing is to be run."""


@contextmanager
def tinybig() -> Iterator[Any]:
    """A namespace of tinyBIG's classes, which pickle finds only in here; they can be used after it, too."""
    ours = (*UNUSED, "tinybig")
    before = {name: sys.modules.pop(name) for name in [*sys.modules] if _within(name, ours)}
    finder = StandIns()
    sys.meta_path.insert(0, finder)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = {name: getattr(importlib.import_module(module), name) for name, module in CLASSES.items()}
        yield types.SimpleNamespace(**found)
    finally:
        sys.meta_path.remove(finder)
        for name in [name for name in sys.modules if _within(name, ours)]:
            del sys.modules[name]
        sys.modules.update(before)


def a_head(classes: Any, function: Any, *, m: int = 6, n: int = 4, channel_num: int = 1, **parts: Any) -> Any:
    """A head that has not had its forward. ``parts`` are further arguments of tinyBIG's head."""
    usual = {"data_transformation": classes.identity_expansion(), "remainder": classes.zero_remainder()}
    return classes.head(m=m, n=n, channel_num=channel_num, parameter_fabrication=function, **usual | parts)


def a_model(classes: Any) -> Any:
    """Two layers after a forward. Two heads of several channels share a function; one has biases and a remainder."""
    kind = classes.random_matrix_hypernet_reconciliation
    shared = kind(r=8, l=16, hidden_dim=32, enable_bias=True)
    full = a_head(classes, shared, channel_num=2, remainder=classes.linear_remainder(enable_bias=True))
    first = classes.layer(m=6, n=4, heads=[full, a_head(classes, shared, channel_num=3)])
    expansion = classes.taylor_expansion(d=2)  # D = 4 + 16
    second = classes.layer(m=4, n=3, heads=[a_head(classes, kind(r=2), m=4, n=3, data_transformation=expansion)])
    model = classes.rpn(layers=[first, second])
    model(torch.randn(5, 6))
    return model


def save_a_model(path: Path) -> None:
    """torch.save of ``a_model``."""
    with tinybig() as classes:
        torch.save(a_model(classes), path)


def _within(name: str, packages: tuple[str, ...]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)
