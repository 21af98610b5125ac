"""What a process knows of the models without asking the database: it serves them at once, and while it is gone.

Models are immutable, so only two things can become old: that a model is there, and its residency. The database counts
such changes; each model is remembered with the count at which it was read.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, replace

from weightloom.fabric.spec import ModelSpec
from weightloom.registry.records import ModelSummary

__all__ = ["Remembered", "RememberedModels"]

KEPT_WEIGHT = 120_000  # parsed specs hold so many tensors in all, counting
MODEL_WEIGHT = 4  # some more for each model
GONE = "gone"  # no residency


@dataclass(frozen=True, slots=True)
class Remembered:
    """A model, as it was when the database had counted so many ``changes``."""

    summary: ModelSummary
    spec: ModelSpec
    changes: int


class RememberedModels:
    """By name and by digest, bounded; what was used longest ago goes first. Safe to use from many threads."""

    def __init__(self) -> None:
        self._models: OrderedDict[str, Remembered] = OrderedDict()  # by digest
        self._digests: dict[str, str] = {}  # by name
        self._weight, self._version, self._changes, self._checked = 0, 0, 0, -1
        self._lock = threading.Lock()

    def get(self, name_or_digest: str) -> Remembered | None:
        """The model, or None where it is not known here."""
        with self._lock:
            digest = self._digests.get(name_or_digest, name_or_digest)
            found = self._models.get(digest)
            if found is not None:
                self._models.move_to_end(digest)
            return found

    def put(self, model: Remembered) -> None:
        """Remember a model, unless something has changed since it was read: it could be gone."""
        with self._lock:
            if model.changes < self._changes or _weight(model) > KEPT_WEIGHT:
                return
            self._drop(model.summary.digest)
            self._models[model.summary.digest] = model
            self._digests[model.summary.name] = model.summary.digest
            self._weight += _weight(model)
            while self._weight > KEPT_WEIGHT:
                self._drop(next(iter(self._models)))

    def forget(self, digest: str, changes: int) -> None:
        """A change by this process, the ``changes``-th: what is read from now on is newer than it."""
        with self._lock:
            self._changes = max(self._changes, changes)
            self._drop(digest)

    def to_check(self, version: int, changes: int) -> dict[str, str | None]:
        """Residencies by digest of what may have changed, now that the database has counted so much."""
        with self._lock:
            if version < self._version or changes < self._changes:  # an older state was restored: all may be otherwise
                self._models.clear()
                self._digests.clear()
                self._weight, self._checked = 0, -1
            self._version, self._changes = version, changes
            if changes == self._checked:
                return {}
            return {
                digest: model.summary.residency for digest, model in self._models.items() if model.changes < changes
            }

    def checked(self, asked: Mapping[str, str | None], found: Mapping[str, str | None], changes: int) -> None:
        """Of what was ``asked`` for this was ``found``; the rest is forgotten. Both are residencies by digest."""
        otherwise = [digest for digest, residency in asked.items() if found.get(digest, GONE) != residency]
        with self._lock:  # the event loop may wait for it, so no more than needs to be is done within
            for digest in otherwise:
                model = self._models.get(digest)
                if model is None or model.changes >= changes:  # read again meanwhile
                    continue
                if digest in found:
                    summary = replace(model.summary, residency=found[digest])
                    self._models[digest] = replace(model, summary=summary)
                else:
                    self._drop(digest)
            self._checked = changes

    def _drop(self, digest: str) -> None:
        if (gone := self._models.pop(digest, None)) is not None:
            self._weight -= _weight(gone)
            if self._digests.get(gone.summary.name) == digest:
                del self._digests[gone.summary.name]


def _weight(model: Remembered) -> int:
    return model.summary.tensors + MODEL_WEIGHT
