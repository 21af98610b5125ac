"""Which replies come straight from this server's own address, past the balancer: a proxy costs bulk half its speed."""

from __future__ import annotations

from urllib.parse import urlsplit

from starlette.exceptions import HTTPException
from starlette.types import Scope

from weightloom.engine import Fabrication
from weightloom.rest.body import Headers

__all__ = ["HEADER", "Direct"]

HEADER = b"x-weightloom-direct"
QUERY_BYTES = 2048  # a Location with a longer one may be more than a proxy takes for a reply's head
PORTS = {"https": ":443", "http": ":80"}


class Direct:
    """url: this server's own address as clients reach it, without a path. size: bytes from which on it pays."""

    def __init__(self, url: str, size: int) -> None:
        self._url, self._size = url.rstrip("/"), size
        parts = urlsplit(self._url)
        self._port, self._authority = PORTS[parts.scheme], parts.netloc.lower().removesuffix(PORTS[parts.scheme])

    def check(self, scope: Scope, headers: Headers, file: Fabrication, has_key: bool) -> None:
        """Raise the HTTPException that sends a client there for what it has asked for.

        It does not where the request came there already, where the client declines, where sending the body once more
        would cost what is gained, or where a client brings a key and does not say that it takes it along: most drop
        credentials when they are sent to another host.
        """
        says, query = headers.get(HEADER).strip().lower(), scope["query_string"].decode("latin-1")
        if says == "no" or (has_key and says != "yes") or len(query) > QUERY_BYTES:
            return
        if file.size - headers.body_bytes() < self._size or self._is_here(headers.get(b"host")):
            return
        location = f"{self._url}{scope['path']}{'?' if query else ''}{query}"
        told = (
            f"these {file.size} bytes come from {self._url}: send the same request there, or {HEADER.decode()}: no here"
        )
        raise HTTPException(307, told, {"location": location, "etag": file.file.etag})

    def _is_here(self, host: str) -> bool:
        return host.strip().lower().removesuffix(self._port) == self._authority
