"""The Python client of weightloom: models and whole files over REST, specs and bundles.

Importing it costs little: what needs pydantic and the fabric is imported when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from weightloom_client.client import Client
from weightloom_client.errors import ServerError, ServerUnreachable, WeightloomClientError

if TYPE_CHECKING:
    from weightloom_client.bundle import Bundle
    from weightloom_client.model_spec import ModelSpec, identity_w

__all__ = [
    "Bundle",
    "Client",
    "ModelSpec",
    "ServerError",
    "ServerUnreachable",
    "WeightloomClientError",
    "identity_w",
]

LATE = {"Bundle": "bundle", "ModelSpec": "model_spec", "identity_w": "model_spec"}


def __getattr__(name: str) -> object:
    """What is imported only when it is asked for."""
    if name not in LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(f"{__name__}.{LATE[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
