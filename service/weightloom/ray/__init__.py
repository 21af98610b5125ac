"""The same engine and fronts on Ray Serve: ``serve run weightloom.ray:app``, ``serve deploy deploy/ray/serve.yaml``.

Ray places, counts, balances and restarts; nothing here does. docs/ray.md says how to run it and what it needs.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__all__ = ["Arguments", "add_grpc", "app"]

PLACES = {"Arguments": "application", "app": "application", "add_grpc": "rpc"}


def __getattr__(name: str) -> Any:
    """What Ray looks for here; Ray itself is only imported then."""
    if name not in PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{PLACES[name]}"), name)
