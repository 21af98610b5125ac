"""The model that is there while all else is hostile."""

from __future__ import annotations

from typing import Any

from support.server import Server, wait_until

__all__ = ["MODEL", "register"]

MODEL: dict[str, Any] = {
    "name": "demo/mlp",
    "seed": 1,
    "tensors": [{"name": "t", "shape": [4, 4], "l": 4}, {"name": "b", "shape": [4], "kind": "identity"}],
}


def register(server: Server) -> None:
    """Register it, also where a server has so little patience that a busy machine may be too slow for it."""
    wait_until(lambda: server.post_json("/v1/models", MODEL).status in (200, 201))
