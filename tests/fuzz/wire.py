"""Requests over HTTP as bytes: of the right form with hostile parts, or with bytes changed anywhere."""

from __future__ import annotations

import json
import socket
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlparse

from fuzz.examples import MODEL
from fuzz.strategies import SPEC_BODIES, json_values, mutated, queries, safetensors_bodies
from hypothesis import strategies as st
from support.server import Server

__all__ = ["Reply", "ask", "requests"]

SECONDS = 30
METHODS = ("GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "TRACE", "CONNECT", "get", "")
PATHS = (
    "/fabricate", "/v1/models", "/v1/models/demo/mlp", "/v1/models/demo/mlp/residency", "/v1/models/%ff%00/residency",
    f"/v1/factors/{'0' * 64}", "/v1/factors/..%2f..", "/v1/info", "/healthz", "/readyz", "/metrics", "/", "*", "//", "",
    "http://x/healthz", "/v1/models/" + "a" * 3000, "/docs", "/openapi.json", "/static-offline-docs/%2e%2e%2fapp.py",
)  # fmt: skip
TYPES = ("application/json", "application/octet-stream", "text/plain", "multipart/form-data", "*/*", ";", "\xff")
NAMES = (
    "If-Match", "If-None-Match", "Range", "If-Modified-Since", "X-Request-Timeout", "X-Request-Id", "traceparent",
    "Accept-Encoding", "Content-Encoding", "Expect", "Upgrade", "Host", "Content-Length", "Transfer-Encoding", "", "\0",
)  # fmt: skip
VALUES = (
    "", "*", '"x"', "W/*, ,", "bytes=0-0,-1", "bytes=9-1", "-1", "1e308", "nan", "1_0", "\xff", "\x01", "a" * 5000,
    "gzip", "100-continue", "websocket", "h2c", "chunked", "00-" + "0" * 32 + "-" + "0" * 16 + "-01", "5, 5", "0x10",
)  # fmt: skip
W = {"t": [0.5] * 4, "b": [1.0] * 4}
GOOD = st.sampled_from(
    [
        json.dumps(value).encode()
        for value in (
            {"model": "demo/mlp", "w": W},
            MODEL,
            {"residency": "auto"},
            MODEL | {"w": W},
            {"model": "demo/mlp"},
        )
    ]
)


def requests() -> st.SearchStrategy[bytes]:
    """One request, framed rightly as a rule."""
    bodies = (
        st.just(b"") | GOOD | GOOD.flatmap(mutated) | SPEC_BODIES | safetensors_bodies() | st.binary(max_size=60)
        | json_values().map(lambda value: json.dumps(value).encode())
    )  # fmt: skip
    targets = st.builds("{}{}".format, st.sampled_from(PATHS), st.just("") | queries().map(_in_a_line))
    headers = st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from(VALUES)), max_size=3)
    right = st.builds(
        _framed, st.sampled_from(METHODS), targets, st.sampled_from(TYPES), headers, bodies, st.booleans()
    )
    return right | right.flatmap(mutated)


def _in_a_line(query: str) -> str:
    return "?" + quote(query, safe="%=&:;/?+[]", errors="replace")


def _framed(
    method: str, target: str, media_type: str, headers: list[tuple[str, str]], body: bytes, chunked: bool
) -> bytes:
    named = [("Host", "x"), ("Connection", "close"), ("Content-Type", media_type), *headers]
    named.append(("Transfer-Encoding", "chunked") if chunked else ("Content-Length", str(len(body))))
    if chunked:
        body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) if body else b"0\r\n\r\n"
    lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in named), "", ""]
    return "\r\n".join(lines).encode("latin-1", errors="replace") + body


@dataclass(frozen=True)
class Reply:
    """status 0: the connection was closed without any. document: of an error, else None."""

    status: int
    headers: dict[str, str]
    document: dict[str, Any] | None


def ask(server: Server, data: bytes) -> Reply:
    """Send bytes on a new connection, and read the first reply, of a stream only its beginning."""
    host, port = urlparse(server.url).netloc.split(":")
    with socket.create_connection((host, int(port)), SECONDS) as sock, sock.makefile("rb") as file:
        try:
            sock.sendall(data)
            return _read(file)
        except ConnectionError:  # it was closed while we were sending
            return Reply(0, {}, None)


def _read(file: Any) -> Reply:
    line = file.readline()
    while line.startswith(b"HTTP/1.1 100 "):
        file.readline()
        line = file.readline()
    if not line:
        return Reply(0, {}, None)
    headers = dict(_headers(file))
    status = int(line.split()[1])
    is_problem = headers.get("content-type") == "application/problem+json"
    body = file.read(int(headers.get("content-length", 0))) if is_problem else b""
    return Reply(status, headers, json.loads(body) if body else None)


def _headers(file: Any) -> Any:
    while line := file.readline().strip():
        name, _, value = line.decode("latin-1").partition(": ")
        yield name, value
