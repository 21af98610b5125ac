"""The default registry: models in one SQLite file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from weightloom.errors import Unavailable
from weightloom.fabric.cache import BoundedCache
from weightloom.fabric.spec import ModelSpec
from weightloom.registry.blobs import FACTORS_FOLDER, FactorBlobs
from weightloom.registry.database import Database
from weightloom.registry.key_table import Execute, KeyTable
from weightloom.registry.records import (
    ModelSummary,
    key_of,
    not_found,
    parse_canonical,
    same_or_conflict,
    summarize,
)

__all__ = ["SqliteRegistry"]

COLUMNS = "name, digest, tensors, numel, w_numbers, created_at, residency"
FIND = {key: f"SELECT {COLUMNS} FROM models WHERE {key} = ?" for key in ("name", "digest")}
KEPT_TENSORS = 120_000  # parsed specs are kept until they hold this many tensors in all


class SqliteRegistry:
    """See ``Registry``. ``path`` is made, with its folder, where it is missing; None keeps the models in memory."""

    def __init__(self, path: Path | None) -> None:
        self._database = Database(path)
        self.keys = KeyTable("api_keys", "?", self._database.rows, self._writing_keys)
        self.factors = FactorBlobs(None if path is None else path.parent / FACTORS_FOLDER)
        self._specs: BoundedCache[str, ModelSpec] = BoundedCache(KEPT_TENSORS, lambda spec: len(spec.tensors))

    def create(self, spec: ModelSpec) -> tuple[ModelSummary, bool]:
        """Insert in one transaction that is on disk before this returns."""
        summary = summarize(spec, datetime.now(UTC).isoformat(timespec="milliseconds"))
        row = _row_of(spec, summary)
        with self._database.writing() as connection:
            self.factors.check(spec)  # in here, where nobody removes any
            there = connection.execute(FIND["name"], (spec.name,)).fetchone()
            if there is None:
                connection.execute("INSERT INTO models VALUES (?, ?, ?, ?, ?, ?, ?, NULL)", row)
                imported = {(blob.digest, spec.digest) for _, blob in spec.imported}
                connection.executemany("INSERT INTO imported VALUES (?, ?)", imported)
        if there is None:
            return summary, True
        return same_or_conflict(_summary_of(there), spec), False

    def find(self, name_or_digest: str) -> ModelSummary:
        """One indexed read."""
        row = self._database.row(FIND[key_of(name_or_digest)], name_or_digest)
        if row is None:
            raise not_found(name_or_digest)
        return _summary_of(row)

    known = find  # less than handing it to a thread would cost

    def load(self, summary: ModelSummary) -> ModelSpec:
        """From memory where it was read lately: a digest's spec never changes."""
        spec = self._specs.get(summary.digest)
        if spec is None:
            row = self._database.row("SELECT spec FROM models WHERE digest = ?", summary.digest)
            if row is None:
                raise not_found(summary.name)
            spec = parse_canonical(row[0])
            self._specs.put(summary.digest, spec)
        return spec

    def page(self, after: str, limit: int) -> list[ModelSummary]:
        """In the order of the names' code points."""
        query = f"SELECT {COLUMNS} FROM models WHERE name > ? ORDER BY name LIMIT ?"
        return [_summary_of(row) for row in self._database.rows(query, after, limit)]

    def delete(self, name_or_digest: str) -> None:
        """Delete in one transaction that is on disk before this returns. Factors that nobody imports go after it."""
        with self._database.writing() as connection:
            gone = connection.execute(FIND[key_of(name_or_digest)], (name_or_digest,)).fetchone()
            digest = ("" if gone is None else _summary_of(gone).digest,)
            imported = connection.execute("SELECT factors FROM imported WHERE model = ?", digest).fetchall()
            for table, key in (("models", "digest"), ("imported", "model")):
                connection.execute(f"DELETE FROM {table} WHERE {key} = ?", digest)
        if gone is None:
            raise not_found(name_or_digest)
        if imported:
            with suppress(Unavailable):  # the model is gone; a later sweep finds what is left, and what was too recent
                self.sweep([factors for (factors,) in imported])

    def sweep(self, at_once: Sequence[str] = ()) -> None:
        """In a transaction, so that no model can be created meanwhile that refers to what goes."""
        with self._database.writing() as connection:
            used = {factors for (factors,) in connection.execute("SELECT factors FROM imported")}
            self.factors.remove_unused(used, at_once)

    def set_residency(self, name_or_digest: str, residency: str | None) -> None:
        """Update in one transaction."""
        statement = f"UPDATE models SET residency = ? WHERE {key_of(name_or_digest)} = ?"
        with self._database.writing() as connection:
            changed = connection.execute(statement, (residency, name_or_digest)).rowcount
        if not changed:
            raise not_found(name_or_digest)

    def resident(self) -> list[ModelSummary]:
        """All of them: they are few, since memory is."""
        query = f"SELECT {COLUMNS} FROM models WHERE residency = 'resident' ORDER BY name"
        return [_summary_of(row) for row in self._database.rows(query)]

    @contextmanager
    def _writing_keys(self) -> Iterator[Execute]:
        with self._database.writing() as connection:
            yield lambda statement, values: connection.execute(statement, values).rowcount

    def version(self) -> int:
        """SQLite's own count of other connections' commits; our writer is another connection than our reader."""
        row = self._database.row("PRAGMA data_version")
        assert row is not None
        return int(row[0])

    def ping(self) -> None:
        """See that the file is in its place, and read from it."""
        self._database.check_readable()

    def write_problem(self) -> str | None:
        """As the last write went, which was within seconds, or is made now."""
        return self._database.write_problem()

    def close(self) -> None:
        """Close the file."""
        self.factors.close()
        self._database.close()


def _row_of(spec: ModelSpec, summary: ModelSummary) -> tuple[str | bytes | int, ...]:
    counts = summary.tensors, str(summary.numel), str(summary.w_numbers)
    return spec.name, spec.digest, spec.canonical, *counts, summary.created_at


@lru_cache(maxsize=4096)
def _summary_of(row: tuple[Any, ...]) -> ModelSummary:
    name, digest, tensors, numel, w_numbers, created_at, residency = row
    return ModelSummary(name, digest, tensors, int(numel), int(w_numbers), created_at, residency)
