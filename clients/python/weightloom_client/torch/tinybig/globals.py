"""What a pickle of a tinyBIG object may name, and what stands in its place."""

from __future__ import annotations

import io
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch
from weightloom.errors import InvalidInput

__all__ = ["named"]

INERT = ("tinybig", "torch.nn", "torch._C._nn", "numpy")
STORAGES = {
    f"torch.{kind}Storage": dtype
    for kind, dtype in {
        "Float": torch.float32, "Double": torch.float64, "Half": torch.float16, "BFloat16": torch.bfloat16,
        "Long": torch.int64, "Int": torch.int32, "Short": torch.int16, "Char": torch.int8, "Byte": torch.uint8,
        "Bool": torch.bool,
    }.items()
}  # fmt: skip


class Inert:
    """Stands for an object of a class that is not imported; a function that is named, or called, is one as well."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        if isinstance(state, dict):
            self.__dict__.update(state)


# Objects without attributes: a pickle may set attributes of what it names, and must leave no trace in this process.
class _Storage:
    """In place of torch.storage._load_from_bytes, which would run any code."""

    __slots__ = ()

    def __call__(self, data: bytes) -> torch.Tensor:
        storage = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        return torch.empty(0, dtype=storage.dtype).set_(storage._untyped_storage)


class _Tensor:
    """In place of torch._utils._rebuild_tensor_v2, which would enlarge a storage that is too small."""

    __slots__ = ()

    def __call__(self, flat: torch.Tensor, offset: int, size: Any, stride: Any, *others: object) -> torch.Tensor:
        return flat.as_strided(tuple(size), tuple(stride), offset)


class _Parameter:
    __slots__ = ()

    def __call__(self, data: torch.Tensor, *others: object) -> torch.Tensor:
        return data


class _Encoded:
    """In place of _codecs.encode, by which old pickles keep bytes."""

    __slots__ = ()

    def __call__(self, text: str, encoding: str) -> bytes:
        return text.encode("latin1")


CALLABLE: Mapping[str, Any] = {
    "torch._utils._rebuild_tensor_v2": _Tensor(),
    "torch._utils._rebuild_parameter": _Parameter(),
    "torch.storage._load_from_bytes": _Storage(),
    "torch.device": torch.device,
    "torch.Size": torch.Size,
    "_codecs.encode": _Encoded(),
    "collections.OrderedDict": OrderedDict,
    **{f"{module}.{kind.__name__}": kind for module in ("builtins", "__builtin__") for kind in (set, frozenset)},
}


def named(module: str, name: str) -> Any:
    """What stands for the global ``module.name``, which is not imported. Raises InvalidInput where nothing does."""
    full = f"{module}.{name}"
    if full in CALLABLE:
        return CALLABLE[full]
    if full in STORAGES:
        return STORAGES[full]
    if module == "torch" and isinstance(dtype := vars(torch).get(name), torch.dtype):
        return dtype
    if any(f"{module}.".startswith(f"{package}.") for package in INERT):
        return type(name, (Inert,), {"__module__": module})
    expected = "only tinyBIG's own classes and tensors: a pickle may run any code that it names, so none is run"
    raise InvalidInput.at("source", f"a pickle that names {full}", expected)
