"""The seam between the client and its transports. A transport makes single tries; it never waits and never retries."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import quote

from weightloom_client.factors import FactorBlob
from weightloom_client.protocol import Head, Part, Wanted

__all__ = ["Model", "Models", "Reply", "Timeouts", "Tls", "Transport", "for_balancers"]

Model = dict[str, Any]


@dataclass(frozen=True)
class Timeouts:
    """connect: seconds until a connection stands. read: seconds without a byte before a try counts as failed."""

    connect: float = 10.0
    read: float = 60.0

    def __post_init__(self) -> None:
        if min(self.connect, self.read) <= 0:
            raise ValueError(f"expected time-outs above 0, got {self}")


@dataclass(frozen=True)
class Tls:
    """PEM files for https:// and grpcs://. ca: whom to trust, where that is not whom the system trusts. certificate and
    key: what the client shows to a server that asks for it.
    """

    ca: str | os.PathLike[str] | None = None
    certificate: str | os.PathLike[str] | None = None
    key: str | os.PathLike[str] | None = None

    def __post_init__(self) -> None:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("expected certificate and key, both or neither")


def for_balancers(wanted: Wanted, part: Part) -> dict[str, str]:
    """Headers, or metadata, that a balancer may hash on: the model (in ASCII, as in a URL), and the number of the
    stream where several share a file. Servers look at neither.
    """
    model = {"X-Weightloom-Model": quote(wanted.model)} if isinstance(wanted.model, str) else {}
    return model | ({"X-Weightloom-Stream": str(part.stream)} if part.stream else {})


class Reply(Protocol):
    """The bytes of a part, as they come. One thread at a time; ``cancel`` may come from any."""

    @property
    def head(self) -> Head:
        """What the reply says of itself."""

    @property
    def step(self) -> int:
        """The most bytes that ``readinto`` should be given room for: what is lost where it raises."""

    def readinto(self, view: memoryview) -> int:
        """Fill the beginning of ``view`` with the next bytes: how many, 0 at the end. Raises Broken, ServerBusy."""

    def cancel(self) -> None:
        """Let a thread that reads end at once, with Broken."""

    def close(self) -> None:
        """Give the connection back, or give it up where not all was read."""


class Models(Protocol):
    """The calls about models. They raise Broken and what ``Transport.open`` raises."""

    def create_model(self, spec: Mapping[str, Any]) -> Model:
        """Register a model from its spec as JSON has it."""

    def get_model(self, name: str) -> Model:
        """A model by name or digest, as REST shows it."""

    def list_models(self, after: str) -> tuple[list[Model], str]:
        """A page of models behind the name ``after``, and after which name the next one begins ("": none)."""

    def delete_model(self, name: str) -> None:
        """Forget a model."""

    def set_residency(self, name: str, residency: str | None) -> Model:
        """Say what becomes of a model's T."""

    def has_factors(self, blob: FactorBlob) -> bool:
        """Whether imported factors are there, all of them."""

    def put_factors(self, blob: FactorBlob) -> None:
        """Upload imported factors."""


class Transport(Models, Protocol):
    """A server, or a fabric in this process. Safe to use from many threads."""

    url: str

    def open(self, wanted: Wanted, part: Part) -> Reply:
        """Ask for a part of a file. Raises Broken where another try may help, ServerError where a server refuses."""

    def close(self) -> None:
        """Close all connections."""
