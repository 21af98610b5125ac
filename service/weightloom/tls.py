"""TLS of both fronts, from files that the settings name; what is wrong with them is told at the start."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

from weightloom.errors import Unavailable
from weightloom.settings import Settings

__all__ = ["Tls", "read_tls"]


@dataclass(frozen=True)
class Tls:
    """PEM: the server's certificate chain and its key; client_ca: who signs the certificates of gRPC's clients."""

    certificate: bytes
    key: bytes
    client_ca: bytes | None


def read_tls(settings: Settings) -> Tls | None:
    """What the files hold; None where the server speaks without TLS. Raises Unavailable, naming the setting."""
    if settings.tls_cert is None or settings.tls_key is None:
        return None
    tls = Tls(
        _read("tls_cert", settings.tls_cert),
        _read("tls_key", settings.tls_key),
        None if settings.grpc_client_ca is None else _read("grpc_client_ca", settings.grpc_client_ca),
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(settings.tls_cert, settings.tls_key, password=_no_password)
    except (OSError, ValueError) as error:  # ssl's errors are OSErrors
        raise _unusable(f"tls_cert {settings.tls_cert}, tls_key {settings.tls_key}", error) from error
    try:
        if tls.client_ca is not None:
            context.load_verify_locations(cadata=tls.client_ca.decode("ascii"))
    except (OSError, ValueError) as error:
        raise _unusable(f"grpc_client_ca {settings.grpc_client_ca}", error) from error
    return tls


def _read(name: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise _unusable(f"{name} {path}", error) from error


def _no_password() -> str:
    raise ValueError("the key has a password; the server has nobody to ask for it")


def _unusable(what: str, error: Exception) -> Unavailable:
    reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error)
    return Unavailable(f"TLS cannot be served from {what}: {reason}", code="tls_unavailable")
