"""Who may call: API keys, their scopes and their quotas, in memory; read again when the registry has changed."""

from __future__ import annotations

import hmac
import logging
from datetime import UTC, datetime
from enum import StrEnum

from weightloom.engine.calls import Call
from weightloom.engine.quotas import Bucket
from weightloom.errors import Forbidden, Overloaded, Unauthenticated, Unavailable
from weightloom.registry import Registry
from weightloom.registry.keys import ApiKey, Scope, secret_hash, split_token

__all__ = ["Auth", "Keys", "bearer"]

log = logging.getLogger(__name__)

ADMIN_CALLS = frozenset({"create_model", "delete_model", "set_residency", "put_factors"})
NO_SECRET = secret_hash("")


class Auth(StrEnum):
    """Whether a key is asked for."""

    OFF = "off"
    ON = "on"
    IF_ANY = "if any"  # as soon as one was made


def bearer(authorization: str) -> str:
    """The token in a header (or metadata) "authorization", or ""."""
    scheme, _, token = authorization.partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


class Keys:
    """``admit`` and ``charge`` belong to the event loop's thread; ``refresh`` to any."""

    def __init__(self, registry: Registry, auth: Auth) -> None:
        self._registry, self._auth = registry, auth
        self._keys: dict[str, ApiKey] = {}
        self._state: tuple[object, ...] = ()
        self._quotas: dict[str, tuple[Bucket | None, Bucket | None]] = {}
        self.refresh()

    def refresh(self) -> None:
        """Read the keys where they have changed; what was made or revoked counts from now on. Raises Unavailable."""
        if self._auth is not Auth.OFF and (state := self._registry.keys.state()) != self._state:
            self._keys = {key.id: key for key in self._registry.keys.all()}
            self._state = state  # from before: what came between them is read the next time

    @property
    def is_needed(self) -> bool:
        """Whether calls must bring a key."""
        return self._auth is Auth.ON or (self._auth is Auth.IF_ANY and bool(self._keys))

    def check_start(self, host: str) -> None:
        """Raise Unavailable where nobody could be let in."""
        if self._auth is Auth.ON and not any(_problem_of(key) is None for key in self._keys.values()):
            raise Unavailable(
                f"{host} can be reached from other machines, and there is no API key that counts: make one "
                "(weightloom keys create NAME), or let everybody in (--insecure-no-auth)",
                code="key_needed",
            )

    def admit(self, call: Call, token: str) -> None:
        """Let a call in, or raise Unauthenticated, Forbidden or, where a quota is used up, Overloaded."""
        if not self.is_needed:
            return
        key = self._known(token)
        call.key = key.id
        scope = Scope.ADMIN if call.name in ADMIN_CALLS else Scope.FABRICATE
        if scope not in key.scopes:
            has = ", ".join(sorted(key.scopes))
            raise Forbidden(f"key {key.id} ({key.name}) has the scope {has}; this call needs {scope}")
        self._count(key)

    def _known(self, token: str) -> ApiKey:
        if not token:
            raise Unauthenticated("this server wants an API key: Authorization: Bearer wl_…")
        key_id, secret = split_token(token)
        key = self._keys.get(key_id)
        is_right = hmac.compare_digest(secret_hash(secret), NO_SECRET if key is None else key.secret_sha256)
        if key is None or not is_right:
            raise Unauthenticated("no API key has this id and secret", code="key_unknown")
        if problem := _problem_of(key):
            raise Unauthenticated(f"key {key.id} ({key.name}) {problem}", code="key_unknown")
        return key

    def _count(self, key: ApiKey) -> None:
        requests, sent = self._quotas_of(key)
        for bucket, amount, what in ((requests, 1, "requests"), (sent, 1, "bytes")):
            if bucket is not None and (seconds := bucket.wait(amount)):
                message = f"key {key.id} ({key.name}) may use {bucket.per_minute} {what} a minute"
                raise Overloaded(message, code="quota_exceeded", retry_after=seconds)
        if requests is not None:
            requests.take(1)

    def charge(self, call: Call) -> None:
        """Count what a call has sent."""
        key = self._keys.get(call.key) if call.key and call.sent_bytes else None
        if key is not None and (sent := self._quotas_of(key)[1]) is not None:
            sent.take(call.sent_bytes)

    def _quotas_of(self, key: ApiKey) -> tuple[Bucket | None, Bucket | None]:
        if key.id not in self._quotas:
            limits = key.requests_per_minute, key.bytes_per_minute
            requests, sent = (None if limit is None else Bucket(limit) for limit in limits)
            self._quotas[key.id] = requests, sent
        return self._quotas[key.id]


def _problem_of(key: ApiKey) -> str | None:
    """Why a key does not count any more."""
    if key.revoked_at is not None:
        return f"was revoked at {key.revoked_at}"
    if key.expires_at is not None and datetime.fromisoformat(key.expires_at) <= datetime.now(UTC):
        return f"expired at {key.expires_at}"
    return None
