"""The registry of several servers: models in PostgreSQL, and what each process remembers of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from weightloom.errors import Unavailable
from weightloom.fabric.spec import ModelSpec
from weightloom.registry.blobs import FACTORS_FOLDER, FactorBlobs
from weightloom.registry.key_table import Execute, KeyTable
from weightloom.registry.postgres.database import CHANGED, CREATED, LOCKED, Database
from weightloom.registry.postgres.remembered import Remembered, RememberedModels
from weightloom.registry.postgres.rows import (
    COLUMNS,
    FETCH,
    askable_key_of,
    insert,
    is_askable,
    remembered_of,
    residencies_of,
    summary_of,
)
from weightloom.registry.records import REGISTRY_FILE, ModelSummary, key_of, not_found, same_or_conflict, summarize

__all__ = ["PostgresRegistry"]


class PostgresRegistry:
    """See ``Registry``. Imported factors lie in ``data_dir``, whose folder the servers share where they import any.

    ``version`` is to be called again and again: by it a process learns what others have changed. Raises Unavailable
    where the database cannot be opened.
    """

    def __init__(self, url: str, data_dir: Path) -> None:
        self._database = Database(url)
        self._sweeps = not (data_dir / REGISTRY_FILE).exists()  # whose models may need the same factors
        self.factors = FactorBlobs(data_dir / FACTORS_FOLDER)
        self._models = RememberedModels()
        self.keys = KeyTable("weightloom.api_keys", "%s", self._database.rows, self._writing_keys)

    def create(self, spec: ModelSpec) -> tuple[ModelSummary, bool]:
        """Insert in one transaction that is committed before this returns; one that is there already locks nothing."""
        summary = summarize(spec, datetime.now(UTC).isoformat(timespec="milliseconds"))
        self.factors.check(spec)
        found = self._fetch(spec.name) or self._insert(spec, summary)
        if found is None:
            return summary, True
        return same_or_conflict(found.summary, spec), False

    def _insert(self, spec: ModelSpec, summary: ModelSummary) -> Remembered | None:
        """None where the model is new, and the one that came meanwhile otherwise."""
        with self._database.writing(CREATED) as (connection, changes):
            self.factors.check(spec)  # in here, where nobody removes any
            there = connection.execute(FETCH["name"], (spec.name,), binary=True).fetchone()
            if there is None:
                insert(connection, spec, summary)
        found = None if there is None else remembered_of(there)
        self._models.put(found or Remembered(summary, spec, changes))
        return found

    def known(self, name_or_digest: str) -> ModelSummary | None:
        """What is remembered, with its spec."""
        found = self._models.get(name_or_digest)
        return None if found is None else found.summary

    def find(self, name_or_digest: str) -> ModelSummary:
        """What is remembered, or else one read, of the spec as well."""
        return self._get(name_or_digest).summary

    def load(self, summary: ModelSummary) -> ModelSpec:
        """What is remembered, or else one read."""
        return self._get(summary.digest).spec

    def _get(self, name_or_digest: str) -> Remembered:
        found = self._models.get(name_or_digest) or self._fetch(name_or_digest)
        if found is None:
            raise not_found(name_or_digest)
        return found

    def _fetch(self, name_or_digest: str) -> Remembered | None:
        if not is_askable(name_or_digest):
            return None
        row = self._database.row(FETCH[key_of(name_or_digest)], name_or_digest)
        if row is None:
            return None
        found = remembered_of(row)
        self._models.put(found)
        return found

    def page(self, after: str, limit: int) -> list[ModelSummary]:
        """In the order of the names' code points."""
        query = f"SELECT {COLUMNS} FROM weightloom.models WHERE name > %s ORDER BY name LIMIT %s"
        askable = after.partition("\0")[0].encode(errors="replace").decode()
        return [summary_of(row) for row in self._database.rows(query, askable, limit)]

    def delete(self, name_or_digest: str) -> None:
        """Delete in one transaction that is committed before this returns. Factors that nobody imports go after it."""
        key = askable_key_of(name_or_digest)
        with self._database.writing(CHANGED) as (connection, changes):
            query = f"DELETE FROM weightloom.models WHERE {key} = %s RETURNING digest"
            gone = connection.execute(query, (name_or_digest,)).fetchone()
            if gone is None:
                raise not_found(name_or_digest)
            query = "DELETE FROM weightloom.imported WHERE model = %s RETURNING factors"
            imported = [factors for (factors,) in connection.execute(query, gone)]
        self._models.forget(gone[0], changes)
        if imported:
            with suppress(Unavailable):  # the model is gone; a later sweep finds what is left, and what was too recent
                self.sweep(imported)

    def sweep(self, at_once: Sequence[str] = ()) -> None:
        """While nobody can create a model that refers to what goes. Nothing goes beside a SQLite registry."""
        if self._sweeps:
            with self._database.writing(LOCKED) as (connection, _):
                used = {factors for (factors,) in connection.execute("SELECT factors FROM weightloom.imported")}
                self.factors.remove_unused(used, at_once)

    def set_residency(self, name_or_digest: str, residency: str | None) -> None:
        """Update in one transaction."""
        key = askable_key_of(name_or_digest)
        with self._database.writing(CHANGED) as (connection, changes):
            query = f"UPDATE weightloom.models SET residency = %s WHERE {key} = %s RETURNING digest"
            changed = connection.execute(query, (residency, name_or_digest)).fetchone()
            if changed is None:
                raise not_found(name_or_digest)
        self._models.forget(changed[0], changes)

    def resident(self) -> list[ModelSummary]:
        """All of them: they are few, since memory is."""
        query = f"SELECT {COLUMNS} FROM weightloom.models WHERE residency = 'resident' ORDER BY name"
        return [summary_of(row) for row in self._database.rows(query)]

    @contextmanager
    def _writing_keys(self) -> Iterator[Execute]:
        with self._database.writing(CREATED) as (connection, _):
            yield lambda statement, values: connection.execute(statement, values).rowcount

    def version(self) -> int:
        """The count of all writes; looks, too, at what is remembered and may have changed."""
        version, changes = self._database.row("SELECT version, changes FROM weightloom.state") or (0, 0)
        asked = self._models.to_check(version, changes)
        self._models.checked(asked, residencies_of(self._database, list(asked)), changes)
        return int(version)

    def ping(self) -> None:
        """Read from the database."""
        self._database.check_readable()

    def write_problem(self) -> str | None:
        """As the last write went, and whether the database takes writes at all."""
        return self._database.write_problem()

    def close(self) -> None:
        """Close the connections."""
        self.factors.close()
        self._database.close()
