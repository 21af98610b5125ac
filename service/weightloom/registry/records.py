"""What a registry answers with, and what it must be able to do."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Protocol

from weightloom.errors import Conflict, NotFound, shorten
from weightloom.fabric.dtypes import DType
from weightloom.fabric.spec import DIGEST_PATTERN, ModelSpec
from weightloom.registry.blobs import FactorBlobs
from weightloom.registry.key_table import KeyTable

__all__ = [
    "REGISTRY_FILE",
    "ModelSummary",
    "Registry",
    "describe",
    "key_of",
    "not_found",
    "parse_canonical",
    "same_or_conflict",
    "summarize",
]

REGISTRY_FILE = "registry.sqlite3"  # in the data folder


@dataclass(frozen=True)
class ModelSummary:
    """A model without its tensors: ``tensors`` counts them, ``numel`` their elements, ``w_numbers`` their w's.

    residency: "virtual", "resident" or "auto"; None where the server's setting decides.
    """

    name: str
    digest: str
    tensors: int
    numel: int
    w_numbers: int
    created_at: str
    residency: str | None = None


class Registry(Protocol):
    """Models by name and by digest. What a call has acknowledged survives kill -9. Safe to use from many threads.

    All calls raise Unavailable where the store cannot be read or written. factors: what models import. keys: API keys.
    """

    factors: FactorBlobs
    keys: KeyTable

    def create(self, spec: ModelSpec) -> tuple[ModelSummary, bool]:
        """Keep a model; False where the same one was there already. Raises Conflict where the name has another,
        InvalidSpec where factors that it imports are not here.
        """

    def known(self, name_or_digest: str) -> ModelSummary | None:
        """The model, in no more time than an event loop may take; None where only ``find`` can tell, which may wait.

        Its spec is then loaded as quickly. Raises NotFound where that is certain.
        """

    def find(self, name_or_digest: str) -> ModelSummary:
        """Raises NotFound."""

    def load(self, summary: ModelSummary) -> ModelSpec:
        """The model's spec. Raises NotFound where it was deleted meanwhile."""

    def page(self, after: str, limit: int) -> list[ModelSummary]:
        """Up to ``limit`` models whose names sort behind ``after``, by name."""

    def delete(self, name_or_digest: str) -> None:
        """Forget a model, and factors that no other one imports unless they are recent. Raises NotFound."""

    def sweep(self) -> None:
        """Remove imported factors that no model refers to and nobody uploaded or asked for within a day."""

    def set_residency(self, name_or_digest: str, residency: str | None) -> None:
        """Say what becomes of a model's T. Raises NotFound."""

    def resident(self) -> list[ModelSummary]:
        """The models whose residency is "resident"."""

    def version(self) -> int:
        """A number that changes whenever another connection, of any process, has changed the store.

        Call it about once a second: what a registry remembers of the store is brought up to date by it.
        """

    def ping(self) -> None:
        """Raise Unavailable unless the store is in its place and can be read."""

    def write_problem(self) -> str | None:
        """Why nothing can be written at the moment ("cannot be written: …"), or None. Waits for no other writer."""

    def close(self) -> None:
        """Let go of the store."""


def summarize(spec: ModelSpec, created_at: str) -> ModelSummary:
    """The summary of a spec."""
    numel, w_numbers = sum(t.numel for t in spec.tensors), sum(t.w_length or 0 for t in spec.tensors)
    return ModelSummary(spec.name, spec.digest, len(spec.tensors), numel, w_numbers, created_at)


def describe(summary: ModelSummary, spec: ModelSpec) -> dict[str, Any]:
    """All that is known of a model, for people and for JSON."""
    return {
        "name": spec.name,
        "digest": spec.digest,
        "generator": spec.generator,
        "seed": str(spec.seed),
        "created_at": summary.created_at,
        "description": spec.description,
        "numel": summary.numel,
        "w_numbers": summary.w_numbers,
        "data_bytes": {dtype.value: summary.numel * dtype.itemsize for dtype in DType},
        "tensors": [
            tensor.model_dump(mode="json")
            | {
                "numel": tensor.numel,
                "w_length": tensor.w_length or 0,
                "degrees_of_freedom": tensor.degrees_of_freedom,
            }
            for tensor in spec.tensors
        ],
    }


def key_of(name_or_digest: str) -> str:
    """The column to look into; no name looks like a digest."""
    return "digest" if DIGEST_PATTERN.fullmatch(name_or_digest) else "name"


def parse_canonical(canonical: bytes) -> ModelSpec:
    """The spec that a registry has kept."""
    value = json.loads(canonical)
    value.pop("generator")
    return ModelSpec.from_value(value)


def same_or_conflict(found: ModelSummary, spec: ModelSpec) -> ModelSummary:
    """What was found under the name of ``spec``. Raises Conflict where it is another model."""
    if found.digest != spec.digest:
        message = f"model {spec.name!r} exists with digest {found.digest}; models are immutable, take another name"
        raise Conflict(message)
    return found


def not_found(name: str) -> NotFound:
    """The error for a model that is not there."""
    return NotFound(f"no model has the name or digest {shorten(name)!r}")
