"""API keys in the registry, whichever it is: kept whole, revoked for good, and noticed by others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest
from weightloom.errors import NotFound
from weightloom.registry import Registry
from weightloom.registry.keys import Scope, new_key


def test_a_key_is_kept_without_its_secret(registry: Registry) -> None:
    key, token = new_key("Ä 'n' name", [Scope.ADMIN, Scope.FABRICATE], timedelta(days=2), 7, 1 << 62)
    plain, _ = new_key("plain", [Scope.FABRICATE])
    plain = replace(plain, created_at=key.created_at[:-1] + "9")
    for one in (key, plain):
        registry.add_key(one)
    assert registry.api_keys() == sorted([key, plain], key=lambda one: (one.created_at, one.id))
    assert token.split("_", 2)[2] not in repr(registry.api_keys())


def test_a_key_is_revoked_once(registry: Registry) -> None:
    key, _ = new_key("n", [Scope.FABRICATE])
    registry.add_key(key)
    registry.revoke_key(key.id)
    (first,) = registry.api_keys()
    assert first.revoked_at is not None
    registry.revoke_key(key.id)
    assert registry.api_keys() == [first]
    for unknown in ("nobody", "\0", "ä"):
        with pytest.raises(NotFound) as caught:
            registry.revoke_key(unknown)
        assert caught.value.code == "key_not_found"


def test_another_process_sees_that_something_has_changed(open_again: Callable[[], Registry]) -> None:
    ours, theirs = open_again(), open_again()
    key, _ = new_key("n", [Scope.FABRICATE])
    for change in (lambda: theirs.add_key(key), lambda: theirs.revoke_key(key.id)):
        before = ours.version()
        change()
        assert ours.version() != before
    assert ours.api_keys() == theirs.api_keys()
