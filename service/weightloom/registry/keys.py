"""API keys as the registry keeps them: never the secret, only its hash."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum

__all__ = [
    "ApiKey",
    "Scope",
    "new_key",
    "secret_hash",
    "split_token",
]

PREFIX = "wl_"


class Scope(StrEnum):
    """What a key may do. ``admin``: register, change and delete models and factors; ``fabricate``: everything else."""

    FABRICATE = "fabricate"
    ADMIN = "admin"


@dataclass(frozen=True)
class ApiKey:
    """secret_sha256: of a secret of 256 random bits, which needs no slower hash. Times are ISO 8601 in UTC."""

    id: str
    name: str
    secret_sha256: str
    scopes: frozenset[Scope]
    created_at: str
    expires_at: str | None = None
    revoked_at: str | None = None
    requests_per_minute: int | None = None
    bytes_per_minute: int | None = None


def new_key(
    name: str,
    scopes: Iterable[Scope],
    lifetime: timedelta | None = None,
    requests_per_minute: int | None = None,
    bytes_per_minute: int | None = None,
) -> tuple[ApiKey, str]:
    """A key, and its token: ``wl_ID_SECRET``, which nobody can be told a second time."""
    key_id, secret, now = secrets.token_hex(6), secrets.token_urlsafe(32), datetime.now(UTC)
    expires_at = None if lifetime is None else (now + lifetime).isoformat(timespec="seconds")
    hashed, created_at = secret_hash(secret), now.isoformat(timespec="seconds")
    limits = requests_per_minute, bytes_per_minute
    return ApiKey(key_id, name, hashed, frozenset(scopes), created_at, expires_at, None, *limits), (
        f"{PREFIX}{key_id}_{secret}"
    )


def split_token(token: str) -> tuple[str, str]:
    """The id and the secret; empty where it is no token."""
    key_id, _, secret = token.removeprefix(PREFIX).partition("_") if token.startswith(PREFIX) else ("", "", "")
    return key_id, secret


def secret_hash(secret: str) -> str:
    """SHA-256 in hexadecimal digits."""
    return hashlib.sha256(secret.encode(errors="replace")).hexdigest()
