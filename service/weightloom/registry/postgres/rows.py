"""Rows of the tables in PostgreSQL, and what they are in Python."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from weightloom.fabric.spec import ModelSpec
from weightloom.registry.postgres.connection import Connection
from weightloom.registry.postgres.database import Database
from weightloom.registry.postgres.remembered import Remembered
from weightloom.registry.records import ModelSummary, key_of, not_found, parse_canonical

__all__ = [
    "COLUMNS",
    "FETCH",
    "askable_key_of",
    "insert",
    "is_askable",
    "remembered_of",
    "residencies_of",
    "summary_of",
]

COLUMNS = "name, digest, tensors, numel, w_numbers, created_at, residency"
CHANGES = "(SELECT changes FROM weightloom.state)"  # in the same snapshot
FETCH = {
    key: f"SELECT {CHANGES}, spec, {COLUMNS} FROM weightloom.models WHERE {key} = %s" for key in ("name", "digest")
}
INSERT = "INSERT INTO weightloom.models VALUES (%s, %s, %s, %s, %s, %s, %s, NULL)"
INSERT_IMPORTED = "INSERT INTO weightloom.imported (model, factors) SELECT %s, unnest(%s::text[])"
ASKED_AT_ONCE = 2000  # models


def insert(connection: Connection, spec: ModelSpec, summary: ModelSummary) -> None:
    """Both tables' rows of a model."""
    counts = summary.tensors, summary.numel, summary.w_numbers
    connection.execute(INSERT, (spec.name, spec.digest, spec.canonical, *counts, summary.created_at))
    imported = sorted({blob.digest for _, blob in spec.imported})
    if imported:
        connection.execute(INSERT_IMPORTED, (spec.digest, imported))


def is_askable(name_or_digest: str) -> bool:
    """Whether a model can have this name; others cannot even be sent to PostgreSQL."""
    return name_or_digest.isascii() and "\0" not in name_or_digest


def askable_key_of(name_or_digest: str) -> str:
    """The column to look into. Raises NotFound where no model can have this name."""
    if not is_askable(name_or_digest):
        raise not_found(name_or_digest)
    return key_of(name_or_digest)


def summary_of(row: tuple[Any, ...]) -> ModelSummary:
    """From COLUMNS."""
    name, digest, tensors, numel, w_numbers, created_at, residency = row
    return ModelSummary(name, digest, tensors, int(numel), int(w_numbers), created_at, residency)


def remembered_of(row: tuple[Any, ...]) -> Remembered:
    """From FETCH."""
    changes, spec, *columns = row
    return Remembered(summary_of(tuple(columns)), parse_canonical(bytes(spec)), changes)


def residencies_of(database: Database, digests: Sequence[str]) -> dict[str, str | None]:
    """Of those that are there; in parts, since a part's text is made while nothing else can run."""
    query, found = "SELECT digest, residency FROM weightloom.models WHERE digest = ANY(%s)", dict[str, str | None]()
    for start in range(0, len(digests), ASKED_AT_ONCE):
        found |= dict(database.rows(query, digests[start : start + ASKED_AT_ONCE]))
    return found
