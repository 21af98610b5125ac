"""Rows of the tables in PostgreSQL, and what they are in Python."""

from __future__ import annotations

from typing import Any

from weightloom.fabric.spec import ModelSpec
from weightloom.registry.postgres.connection import Connection
from weightloom.registry.postgres.remembered import Remembered
from weightloom.registry.records import ModelSummary, parse_canonical

__all__ = ["COLUMNS", "FETCH", "insert", "is_askable", "remembered_of", "summary_of"]

COLUMNS = "name, digest, tensors, numel, w_numbers, created_at, residency"
CHANGES = "(SELECT changes FROM weightloom.state)"  # in the same snapshot
FETCH = {
    key: f"SELECT {CHANGES}, spec, {COLUMNS} FROM weightloom.models WHERE {key} = %s" for key in ("name", "digest")
}
INSERT = "INSERT INTO weightloom.models VALUES (%s, %s, %s, %s, %s, %s, %s, NULL)"
INSERT_IMPORTED = "INSERT INTO weightloom.imported (model, factors) SELECT %s, unnest(%s::text[])"


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


def summary_of(row: tuple[Any, ...]) -> ModelSummary:
    """From COLUMNS."""
    name, digest, tensors, numel, w_numbers, created_at, residency = row
    return ModelSummary(name, digest, tensors, int(numel), int(w_numbers), created_at, residency)


def remembered_of(row: tuple[Any, ...]) -> Remembered:
    """From FETCH."""
    changes, spec, *columns = row
    return Remembered(summary_of(tuple(columns)), parse_canonical(bytes(spec)), changes)
