"""A request that brings its model with it, a tensor of each kind: what the contract tests ask both fronts."""

from __future__ import annotations

from typing import Any

TENSORS = [
    {"name": "t", "shape": [6, 5], "l": 3, "r": 2},
    {"name": "b", "shape": [2], "kind": "identity"},
    {"name": "one", "shape": [2, 2], "kind": "constant", "value": "eye"},
]
W: dict[str, Any] = {"t": [0.5, -1.5, 2.0], "b": [1.0, 2.0]}
INLINE = {"seed": 12345, "tensors": TENSORS, "w": W}
