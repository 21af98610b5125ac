"""The Python client of weightloom: weights from a seed and a few numbers, over REST, gRPC, or made here.

Importing it costs little: what needs pydantic, the fabric, asyncio or grpc is imported when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from weightloom_client.client import Client
from weightloom_client.errors import (
    ModelConflict,
    ModelNotFound,
    RequestRejected,
    ServerBusy,
    ServerError,
    ServerFailed,
    ServerUnreachable,
    WeightloomClientError,
    WrongBits,
)
from weightloom_client.protocol import RetryPolicy
from weightloom_client.transports import Timeouts, Tls

if TYPE_CHECKING:
    from weightloom_client.aio import AsyncClient
    from weightloom_client.bundle import Bundle
    from weightloom_client.model_spec import ModelSpec, identity_w

__all__ = [
    "AsyncClient",
    "Bundle",
    "Client",
    "ModelConflict",
    "ModelNotFound",
    "ModelSpec",
    "RequestRejected",
    "RetryPolicy",
    "ServerBusy",
    "ServerError",
    "ServerFailed",
    "ServerUnreachable",
    "Timeouts",
    "Tls",
    "WeightloomClientError",
    "WrongBits",
    "identity_w",
]

LATE = {"AsyncClient": "aio", "Bundle": "bundle", "ModelSpec": "model_spec", "identity_w": "model_spec"}


def __getattr__(name: str) -> object:
    """What is imported only when it is asked for."""
    if name not in LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(f"{__name__}.{LATE[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
