"""Bulk requests and a bare socket client, for tests in which a reader is slow, greedy or gone."""

from __future__ import annotations

import hashlib
import json
import socket
import threading
from collections.abc import Iterator
from typing import Any, Self
from urllib.parse import urlparse

import numpy as np
from support.server import Server
from weightloom.fabric import ModelSpec, VirtualFile

CHUNK = 1 << 20


def bulk(side: int, *, r: int = 2, seed: int = 1) -> dict[str, Any]:
    """A request for a tensor of side x side."""
    tensor = {"name": "t", "shape": [side, side], "l": 4, "r": r}
    return {"seed": seed, "tensors": [tensor], "w": {"t": [1.0, -0.5, 0.25, 2.0]}}


def local_hash(request: dict[str, Any]) -> str:
    """SHA-256 of the file, made in this process."""
    spec = ModelSpec.from_value({"name": "inline"} | {key: request[key] for key in request if key != "w"})
    file, digest = VirtualFile(spec, {name: np.array(w) for name, w in request["w"].items()}), hashlib.sha256()
    for offset in range(0, file.size, CHUNK):
        digest.update(file.read(offset, min(CHUNK, file.size - offset)))
    return digest.hexdigest()


def post(url: str, request: dict[str, Any], *, receive_buffer: int | None = None, **headers: str) -> socket.socket:
    """A connection on which POST /fabricate was sent; header names are given with underscores."""
    host, port = urlparse(url).netloc.split(":")
    sock = socket.socket()
    if receive_buffer:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    sock.settimeout(60)
    sock.connect((host, int(port)))
    body = json.dumps(request).encode()
    named = {"host": "x", "content_type": "application/json", "content_length": str(len(body))} | headers
    head = ["POST /fabricate HTTP/1.1", *(f"{name.replace('_', '-')}: {value}" for name, value in named.items())]
    sock.sendall("\r\n".join([*head, "", ""]).encode() + body)
    return sock


def receive_until(sock: socket.socket, text: bytes, *, times: int = 1, early: bytes = b"") -> bytes:
    """What comes until ``text`` has come so often, and no longer than the connection lasts. early: what has come."""
    data = early
    while data.count(text) < times:
        more = sock.recv(4096)
        assert more, f"the connection ended before {text!r} had come: {data!r}"
        data += more
    return data


class BareClient:
    """Sends one POST /fabricate and reads the body as slowly as it is told to; it has no buffers of its own."""

    def __init__(self, url: str, request: dict[str, Any], *, receive_buffer: int | None = None, **headers: str) -> None:
        self.socket = post(url, request, receive_buffer=receive_buffer, **headers)
        self.headers, self._early = self._read_head()
        self.length = int(self.headers["content-length"])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _read_head(self) -> tuple[dict[str, str], bytes]:
        data = receive_until(self.socket, b"\r\n\r\n")
        head, _, rest = data.partition(b"\r\n\r\n")
        lines = head.decode().split("\r\n")
        assert lines[0].split()[1] in ("200", "206"), data
        return {name.lower(): value for name, value in (line.split(": ", 1) for line in lines[1:])}, rest

    def read(self) -> Iterator[bytes]:
        """The body to its end."""
        left = self.length - len(self._early)
        if self._early:
            yield self._early
        while left:
            data = self.socket.recv(min(CHUNK, left))
            assert data, f"the body ended {left} bytes too early"
            left -= len(data)
            yield data

    def sha256(self) -> str:
        """Of the whole body, read to its end."""
        digest = hashlib.sha256()
        for data in self.read():
            digest.update(data)
        return digest.hexdigest()

    def close(self) -> None:
        """Go away, whatever is still to come."""
        self.socket.close()


class Reader(threading.Thread):
    """Drains a bulk stream for as long as the context is open."""

    def __init__(self, server: Server, request: dict[str, Any]) -> None:
        super().__init__()
        self.client, self.bytes, self.stopped = BareClient(server.url, request), 0, False

    def run(self) -> None:
        """Until the context is left."""
        for data in self.client.read():
            self.bytes += len(data)
            if self.stopped:
                return

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stopped = True
        self.join()
        self.client.close()
