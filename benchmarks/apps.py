"""Bare ASGI applications: what uvicorn gives when the body is ready and nothing is computed. Upper bounds for us."""

from __future__ import annotations

import os
from typing import Any

__all__ = ["echo", "ready"]

CHUNK = 1 << 20
BODY = memoryview(os.urandom(int(os.environ.get("BENCHMARK_BODY_BYTES", "16384")))).toreadonly()


async def ready(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Send a ready body in chunks of 1 MiB."""
    await _start(scope, send)
    for start in range(0, len(BODY), CHUNK):
        part = BODY[start : start + CHUNK]
        await send({"type": "http.response.body", "body": part, "more_body": start + CHUNK < len(BODY)})


async def echo(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Read the request's body, then send the ready body whole."""
    while (await receive()).get("more_body", False):
        pass
    await _start(scope, send)
    await send({"type": "http.response.body", "body": BODY})


async def _start(scope: dict[str, Any], send: Any) -> None:
    assert scope["type"] == "http"
    headers = [(b"content-type", b"application/octet-stream"), (b"content-length", str(len(BODY)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
