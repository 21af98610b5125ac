"""The models of a soak and what clients ask of them, with the bytes that they must get."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import Any

import numpy as np
from weightloom.fabric import DType, ModelSpec, VirtualFile
from weightloom.requests import FabricateRequest

__all__ = ["KEPT", "VOLATILE", "Menu", "Model", "Order"]

SELECTIONS = ("whole", "rows", "tensors", "offset", "range")
BATCH = 3


@dataclass(frozen=True)
class Model:
    """residency: as it is registered, or None where it is sent inline with each request."""

    kind: str
    spec: ModelSpec
    residency: str | None = None

    @property
    def name(self) -> str:
        """The registered name."""
        return self.spec.name


def _model(kind: str, residency: str | None, *tensors: dict[str, Any], number: int = 0) -> Model:
    name = f"soak/{kind}/{number}" if number else f"soak/{kind}"
    bias = {"name": "bias", "shape": [32], "kind": "identity"}
    spec = {"name": name, "seed": 7 + number, "tensors": [*tensors, bias]}
    return Model(kind, ModelSpec.from_value(spec), residency)


def _loom(rows: int, columns: int, r: int = 2, l: int = 8, hidden_dim: int = 32) -> dict[str, Any]:
    return {"name": "t", "shape": [rows, columns], "l": l, "r": r, "hidden_dim": hidden_dim}


# Registered from the beginning to the end ...
KEPT = (
    _model("small", "virtual", _loom(24, 24), {"name": "ones", "shape": [8], "kind": "constant", "value": "ones"}),
    _model("virtual", "virtual", _loom(1200, 1024)),
    _model("resident", "resident", _loom(1024, 1024, r=4)),
    _model("auto", "auto", _loom(700, 1000)),
)
# ... and registered, warmed, unloaded and deleted all the time.
VOLATILE = tuple(_model("volatile", None, _loom(300, 400, r=1 + n % 3), number=n) for n in range(1, 7))
INLINE = (_model("inline", None, _loom(40, 40)), _model("large", None, _loom(2048, 2048, r=1)))


@dataclass(frozen=True)
class Order:
    """A request, and what it must give: ``size`` bytes of this SHA-256, out of a file of this ETag."""

    model: Model
    selection: str
    request: FabricateRequest
    size: int
    sha256: str
    etag: str

    @property
    def features(self) -> list[tuple[str, str]]:
        """What a completion of it shows to work."""
        return [("model", self.model.kind), ("selection", self.selection), ("dtype", self.request.dtype.value)]


class Menu:
    """Orders that are the same for the same seed; each costs its bytes once, here."""

    def __init__(self, rng: Random) -> None:
        self.orders = [order for model in (*KEPT, *VOLATILE, *INLINE) for order in _orders(model, rng)]
        self.large = _order(INLINE[1], "whole", rng, DType.F32)

    def any(self, rng: Random) -> Order:
        """Any order."""
        return rng.choice(self.orders)

    def sized(self, rng: Random, least: int, most: int) -> Order:
        """Any order that will surely be there, of so many bytes."""
        fit = [order for order in self.orders if least <= order.size <= most and order.model not in VOLATILE]
        return rng.choice(fit)


def _orders(model: Model, rng: Random) -> Iterator[Order]:
    """One for each selection; inline requests name no tensors, their specs are the selection."""
    selections = [one for one in SELECTIONS if one != "tensors" or model not in INLINE]
    for selection in selections:
        yield _order(model, selection, rng, rng.choice(list(DType)))


def _order(model: Model, selection: str, rng: Random, dtype: DType) -> Order:
    tensors = ["t"] if selection == "tensors" else None
    first = rng.randrange(model.spec.by_name["t"].shape[0] // 2)
    rows = {"t": (first, model.spec.by_name["t"].shape[0] - 1)} if selection == "rows" else {}
    w = _w(model.spec, tensors, rng)
    file = VirtualFile(model.spec, w, dtype=dtype, tensors=tensors, rows=rows)
    offset = rng.randrange(file.size) if selection in ("offset", "range") else 0
    length = rng.randint(1, file.size - offset) if selection == "range" else None
    source: str | ModelSpec = model.spec if model in INLINE else rng.choice([model.name, model.spec.digest])
    request = FabricateRequest(source, w, dtype, tensors, rows, offset, length)
    data = file.read(offset, file.size - offset if length is None else length)
    return Order(model, selection, request, len(data), hashlib.sha256(data).hexdigest(), file.etag)


def _w(spec: ModelSpec, tensors: list[str] | None, rng: Random) -> dict[str, np.ndarray[Any, Any]]:
    """A w for each tensor that takes one; small models get a batch now and then."""
    numbers = np.random.default_rng(rng.randrange(1 << 32))
    batch = (BATCH,) if spec.by_name["t"].numel < 1 << 17 and rng.random() < 0.3 else ()
    lengths = {t.name: t.w_length for t in spec.tensors if t.w_length and (tensors is None or t.name in tensors)}
    return {name: numbers.standard_normal((*batch, length), np.float32) for name, length in lengths.items()}
