"""Who is let in: keys, scopes, times and quotas; nobody's secret is told."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from weightloom.engine import Call
from weightloom.engine.keys import Auth, Keys
from weightloom.engine.quotas import Bucket
from weightloom.errors import Forbidden, NotFound, Overloaded, Unauthenticated, Unavailable
from weightloom.fabric import ModelSpec
from weightloom.registry import SqliteRegistry
from weightloom.registry.keys import Scope, new_key


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def registry() -> Iterator[SqliteRegistry]:
    made = SqliteRegistry(None)
    yield made
    made.close()


def call(name: str = "fabricate") -> Call:
    return Call(lambda ended: None, "rest", name)


def made(registry: SqliteRegistry, *scopes: Scope, **limits: Any) -> tuple[str, str]:
    key, token = new_key("somebody", scopes or [Scope.FABRICATE], **limits)
    registry.keys.add(key)
    return key.id, token


def test_a_key_lets_in_and_the_call_knows_whose_it_is(registry: SqliteRegistry) -> None:
    key_id, token = made(registry)
    admitted = call()
    Keys(registry, Auth.ON).admit(admitted, token)
    assert admitted.key == key_id


@pytest.mark.parametrize(
    "change", [lambda t: "", lambda t: t[:-1], lambda t: t + "x", lambda t: "wl_", lambda t: t[3:]]
)
def test_nothing_else_lets_in(registry: SqliteRegistry, change: Any) -> None:
    _, token = made(registry)
    keys = Keys(registry, Auth.ON)
    with pytest.raises(Unauthenticated) as caught:
        keys.admit(call(), change(token))
    assert token.split("_", 2)[2][:-1] not in caught.value.message


def test_scopes_do_not_include_each_other(registry: SqliteRegistry) -> None:
    (_, fabricate), (_, admin) = made(registry, Scope.FABRICATE), made(registry, Scope.ADMIN)
    keys = Keys(registry, Auth.ON)
    for name, right, wrong in (("fabricate", fabricate, admin), ("create_model", admin, fabricate)):
        keys.admit(call(name), right)
        with pytest.raises(Forbidden, match="this call needs"):
            keys.admit(call(name), wrong)


def test_keys_that_expired_or_were_revoked_do_not_count(registry: SqliteRegistry) -> None:
    _, old = made(registry, lifetime=timedelta(seconds=-1))
    key_id, token = made(registry, lifetime=timedelta(days=1))
    keys = Keys(registry, Auth.ON)
    with pytest.raises(Unauthenticated, match="expired at"):
        keys.admit(call(), old)
    keys.admit(call(), token)
    registry.keys.revoke(key_id)
    keys.refresh()
    with pytest.raises(Unauthenticated, match="was revoked at"):
        keys.admit(call(), token)
    with pytest.raises(NotFound) as caught:
        registry.keys.revoke("nobody")
    assert caught.value.code == "key_not_found"


def test_keys_are_read_again_only_where_they_have_changed(
    registry: SqliteRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Any change of the registry has every process look: thousands must not read thousands of keys each time."""
    made(registry)
    keys, read = Keys(registry, Auth.ON), registry.keys.all
    reads: list[int] = []
    monkeypatch.setattr(registry.keys, "all", lambda: reads.append(1) or read())
    registry.create(ModelSpec.model_validate({"name": "m", "seed": 1, "tensors": [{"name": "t", "shape": [2]}]}))
    keys.refresh()
    assert not reads
    _, token = made(registry)
    keys.refresh()
    keys.admit(call(), token)
    assert reads == [1]


def test_when_a_key_is_needed(registry: SqliteRegistry) -> None:
    for auth in (Auth.OFF, Auth.IF_ANY):
        Keys(registry, auth).admit(call(), "")
    with pytest.raises(Unavailable, match="weightloom keys create") as caught:
        Keys(registry, Auth.ON).check_start("0.0.0.0")
    assert caught.value.code == "key_needed"
    key_id, _ = made(registry)
    Keys(registry, Auth.ON).check_start("0.0.0.0")
    Keys(registry, Auth.OFF).admit(call(), "")
    with pytest.raises(Unauthenticated):
        Keys(registry, Auth.IF_ANY).admit(call(), "")
    registry.keys.revoke(key_id)  # who has taken the last key back does not want everybody in
    with pytest.raises(Unauthenticated):
        Keys(registry, Auth.IF_ANY).admit(call(), "")
    with pytest.raises(Unavailable):
        Keys(registry, Auth.ON).check_start("0.0.0.0")


def test_quotas_of_requests_and_bytes(registry: SqliteRegistry) -> None:
    _, often = made(registry, requests_per_minute=2)
    _, much = made(registry, bytes_per_minute=1000)
    keys = Keys(registry, Auth.ON)
    for _ in range(2):
        keys.admit(call(), often)
    with pytest.raises(Overloaded, match="2 requests a minute") as caught:
        keys.admit(call(), often)
    assert caught.value.code == "quota_exceeded"
    assert 20 < caught.value.retry_after <= 30, "less the time that has passed since"
    large = call()
    keys.admit(large, much)
    large.sent_bytes = 1500
    keys.charge(large)
    with pytest.raises(Overloaded, match="1000 bytes a minute") as caught:
        keys.admit(call(), much)
    assert 20 < caught.value.retry_after <= 31


def test_a_bucket_fills_up_evenly() -> None:
    clock = Clock()
    bucket = Bucket(60, clock)
    bucket.take(60)
    assert bucket.wait(1) == 1
    clock.now += 10
    assert (bucket.wait(10), bucket.wait(11)) == (0, 1)
    clock.now += 1000
    assert (bucket.wait(60), bucket.wait(10**9)) == (0, 0)  # more than it ever holds is had when it is full
    bucket.take(90)
    assert bucket.wait(1) == 31
