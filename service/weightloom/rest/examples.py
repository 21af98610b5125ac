"""Examples of the OpenAPI document. A test posts each of them, in this order, to a new server."""

from __future__ import annotations

from typing import Any

__all__ = ["FABRICATE_EXAMPLES", "MODEL_EXAMPLE"]

MODEL_EXAMPLE: dict[str, Any] = {
    "name": "demo/mlp",
    "seed": 43281587,
    "tensors": [
        {"name": "hidden.weight", "shape": [64, 32], "l": 4, "r": 4, "scale": 0.02},
        {"name": "hidden.bias", "shape": [4], "kind": "identity"},
        {"name": "norm.weight", "shape": [64], "kind": "constant", "value": "ones"},
    ],
}
_W = {"hidden.weight": [0.5, -1.0, 0.25, 2.0], "hidden.bias": [0.0, 0.1, -0.1, 0.2]}

FABRICATE_EXAMPLES: dict[str, Any] = {
    "inline, no registration": {"seed": 1, "tensors": MODEL_EXAMPLE["tensors"], "w": _W},
    "one registered model (register demo/mlp first)": {"model": "demo/mlp", "w": _W, "dtype": "BF16"},
    "some rows of one tensor": {
        "model": "demo/mlp",
        "tensors": ["hidden.weight"],
        "rows": {"hidden.weight": [16, 32]},
        "w": {"hidden.weight": _W["hidden.weight"]},
    },
    "two variants at once": {
        "model": "demo/mlp",
        "tensors": ["hidden.weight"],
        "w": {"hidden.weight": [_W["hidden.weight"], [1.0, 0.0, 0.0, 0.0]]},
    },
}
