"""Requests over HTTP as bytes: of the right form with hostile parts, or with bytes changed anywhere."""

from __future__ import annotations

import hashlib
import json
import socket
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlparse

import numpy as np
from fuzz.examples import MODEL
from fuzz.strategies import SPEC_BODIES, json_values, mutated, queries, safetensors_bodies
from hypothesis import strategies as st
from support.server import Server
from weightloom.fabric import safetensors

__all__ = ["Reply", "ask", "requests"]

SECONDS = 60
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
JSON, BYTES = "application/json", "application/octet-stream"
MODEL_PATH = "/v1/models/demo/mlp"
FILE = safetensors.write({}, {name: np.array(values, np.float32) for name, values in W.items()})
DATA = bytes(64)
FACTORS_PATH = f"/v1/factors/{hashlib.sha256(DATA).hexdigest()}"
RIGHT: tuple[tuple[str, str, str, bytes], ...] = (
    ("POST", "/fabricate", JSON, json.dumps({"model": "demo/mlp", "w": W}).encode()),
    ("POST", "/fabricate", JSON, json.dumps({"seed": 1, "tensors": MODEL["tensors"], "w": W}).encode()),
    ("POST", "/fabricate?model=demo/mlp&rows=t%3D0:2", BYTES, FILE),
    ("POST", "/v1/models", JSON, json.dumps(MODEL).encode()),
    ("POST", "/v1/models", JSON, json.dumps(MODEL | {"name": "another"}).encode()),
    ("GET", "/v1/models?limit=2", "", b""),
    ("GET", MODEL_PATH, "", b""),
    ("PUT", f"{MODEL_PATH}/residency", JSON, b'{"residency": "auto"}'),
    ("DELETE", "/v1/models/another", "", b""),
    ("PUT", FACTORS_PATH, BYTES, DATA),
    ("GET", FACTORS_PATH, "", b""),
    ("GET", "/v1/info", "", b""),
)


def requests() -> st.SearchStrategy[bytes]:
    """A right request, of which some parts are replaced, and some bytes changed."""
    framed = st.sampled_from(RIGHT).flatmap(_with_other_parts)
    return framed | framed | framed.flatmap(mutated)


def _with_other_parts(right: tuple[str, str, str, bytes]) -> st.SearchStrategy[bytes]:
    method, target, media_type, body = right
    bodies = (
        mutated(body) | SPEC_BODIES | safetensors_bodies() | st.binary(max_size=60)
        | json_values().map(lambda value: json.dumps(value).encode())
    )  # fmt: skip
    targets = st.builds("{}{}".format, st.sampled_from((target, *PATHS)), st.just("") | queries().map(_in_a_line))
    headers = st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from(VALUES)), max_size=2)
    return st.builds(
        _framed,
        _seldom(method, st.sampled_from(METHODS)),
        _seldom(target, targets),
        _seldom(media_type, st.sampled_from(TYPES)),
        _seldom([], headers),
        _seldom(body, bodies),
        st.booleans(),
    )


def _seldom(usual: Any, other: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(st.just(usual), st.just(usual), st.just(usual), other)


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
