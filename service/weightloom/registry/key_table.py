"""The table of API keys, in whichever database the registry has: what differs between them is how to ask."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from typing import Any

from weightloom.errors import NotFound, shorten
from weightloom.registry.keys import ApiKey, Scope

__all__ = ["Execute", "KeyTable"]

COLUMNS = "id, name, secret_sha256, scopes, created_at, expires_at, revoked_at, requests_per_minute, bytes_per_minute"
KEY_ID = re.compile(r"[0-9a-f]+")

Execute = Callable[[str, tuple[Any, ...]], int]  # a statement and its values -> how many rows it changed


class KeyTable:
    """Called ``name``; ``mark`` stands for a value in a statement. rows: what a query gives. writing: a transaction.

    What a call has acknowledged survives kill -9. All raise Unavailable where the store cannot be read or written.
    """

    def __init__(
        self,
        name: str,
        mark: str,
        rows: Callable[[str], Sequence[tuple[Any, ...]]],
        writing: Callable[[], AbstractContextManager[Execute]],
    ) -> None:
        self._name, self._mark, self._rows, self._writing = name, mark, rows, writing

    def all(self) -> list[ApiKey]:
        """All API keys, revoked ones too, the oldest first."""
        return [_key_of(row) for row in self._rows(f"SELECT {COLUMNS} FROM {self._name} ORDER BY created_at, id")]

    def state(self) -> tuple[Any, ...]:
        """Another one whenever a key was added or revoked, the only changes that there are; cheaper than all keys."""
        seen = "count(*), max(created_at), count(revoked_at), max(revoked_at)"
        return tuple(self._rows(f"SELECT {seen} FROM {self._name}")[0])

    def add(self, key: ApiKey) -> None:
        """Keep a new key."""
        row = _row_of(key)
        with self._writing() as execute:
            execute(f"INSERT INTO {self._name} VALUES ({', '.join([self._mark] * len(row))})", row)

    def revoke(self, key_id: str) -> None:
        """From now on the key does not count; the first time is kept. Raises NotFound."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        statement = f"UPDATE {self._name} SET revoked_at = COALESCE(revoked_at, {self._mark}) WHERE id = {self._mark}"
        changed = 0
        if KEY_ID.fullmatch(key_id):  # not every other text can be sent to every database
            with self._writing() as execute:
                changed = execute(statement, (now, key_id))
        if not changed:
            raise NotFound(f"no API key has the id {shorten(key_id)!r}", code="key_not_found")


def _row_of(key: ApiKey) -> tuple[Any, ...]:
    times = key.created_at, key.expires_at, key.revoked_at
    limits = key.requests_per_minute, key.bytes_per_minute
    return key.id, key.name, key.secret_sha256, " ".join(sorted(key.scopes)), *times, *limits


def _key_of(row: Sequence[Any]) -> ApiKey:
    key_id, name, secret_sha256, scopes, *rest = row
    return ApiKey(key_id, name, secret_sha256, frozenset(map(Scope, scopes.split())), *rest)
