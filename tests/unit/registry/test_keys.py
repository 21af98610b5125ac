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
        registry.keys.add(one)
    assert registry.keys.all() == sorted([key, plain], key=lambda one: (one.created_at, one.id))
    assert token.split("_", 2)[2] not in repr(registry.keys.all())


def test_a_key_is_revoked_once(registry: Registry) -> None:
    key, _ = new_key("n", [Scope.FABRICATE])
    registry.keys.add(key)
    registry.keys.revoke(key.id)
    (first,) = registry.keys.all()
    assert first.revoked_at is not None
    registry.keys.revoke(key.id)
    assert registry.keys.all() == [first]
    for unknown in ("nobody", "\0", "ä", key.id + "\0", key.id[:-1], "\ud800"):
        with pytest.raises(NotFound) as caught:
            registry.keys.revoke(unknown)
        assert caught.value.code == "key_not_found"


def test_another_process_sees_that_something_has_changed(open_again: Callable[[], Registry]) -> None:
    ours, theirs = open_again(), open_again()
    key, _ = new_key("n", [Scope.FABRICATE])
    for change in (lambda: theirs.keys.add(key), lambda: theirs.keys.revoke(key.id)):
        before = ours.version(), ours.keys.state()
        change()
        assert ours.version() != before[0]
        assert ours.keys.state() != before[1]
    assert ours.keys.all() == theirs.keys.all()
