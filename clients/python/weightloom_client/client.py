"""A blocking client. One instance keeps its connections; it may be used from several threads."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from typing import Any, Protocol, Self
from urllib.parse import quote, urlencode

import urllib3
from urllib3.exceptions import HTTPError, ProtocolError

from weightloom_client.errors import ServerError, ServerUnreachable

__all__ = ["Client"]

CHUNK_BYTES = 1 << 20
FIRST_PAUSE_SECONDS = 0.2
Progress = Callable[[int, int], None]
Options = Mapping[str, Sequence[str]]


class Writable(Protocol):
    """Where a file goes: anything with ``write``."""

    def write(self, data: bytes, /) -> object:
        """Take the next bytes."""


class Client:
    """Talks to the server at ``url``.

    timeout: seconds without a byte before an attempt counts as failed. tries: attempts on end that bring no byte; each
    goes on where the last one broke off.
    """

    def __init__(self, url: str, *, timeout: float = 60.0, tries: int = 5) -> None:
        self._url, self._tries = url.rstrip("/"), tries
        self._http = urllib3.PoolManager(timeout=urllib3.Timeout(timeout), retries=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.clear()

    def create_model(self, spec: bytes) -> dict[str, Any]:
        """Register a model from the JSON of its spec. Raises ServerError (409 where the name has another model)."""
        return self._json("POST", "/v1/models", body=spec)

    def get_model(self, name: str) -> dict[str, Any]:
        """A model by name or digest. Raises ServerError (404)."""
        return self._json("GET", "/v1/models/" + quote(name))

    def list_models(self) -> Iterator[dict[str, Any]]:
        """All registered models by name, page by page."""
        after: str | None = ""
        while after is not None:
            page = self._json("GET", "/v1/models?" + urlencode({"after": after}))
            yield from page["models"]
            after = page["next"]

    def delete_model(self, name: str) -> None:
        """Forget a model. Raises ServerError (404)."""
        self._json("DELETE", "/v1/models/" + quote(name))

    def fabricate_to(
        self,
        file: Writable,
        body: bytes,
        options: Options,
        progress: Progress = lambda done, total: None,
    ) -> str:
        """Stream the file that a safetensors ``body`` of w's and ``options`` describe into ``file``; returns its ETag.

        A transfer that breaks off goes on at its byte, under If-Match, so that the bytes are those of one file.
        progress: called with the bytes done and in all. Raises ServerError, ServerUnreachable.
        """
        done, etag, reason, failures = 0, "", None, 0
        while failures < self._tries:
            time.sleep(FIRST_PAUSE_SECONDS * (2**failures - 1) * random.random())
            begun_at = done
            try:
                with closing(self._post(body, _rest_of(options, done), etag)) as reply:
                    etag, length = _head_of(reply)
                    total = done + length
                    for chunk in reply.stream(CHUNK_BYTES):  # raises where it is shorter than its Content-Length
                        file.write(chunk)
                        done += len(chunk)
                        progress(done, total)
                return etag
            except HTTPError as error:
                reason, failures = error, failures + 1 if done == begun_at else 1
        raise ServerUnreachable(f"{self._url} failed {failures} times on end, at byte {done}: {reason}")

    def _post(self, body: bytes, query: Options, etag: str) -> urllib3.BaseHTTPResponse:
        headers = {"Content-Type": "application/octet-stream"} | ({"If-Match": etag} if etag else {})
        url = f"{self._url}/fabricate?{urlencode(query, doseq=True)}"
        return self._http.request("POST", url, body=body, headers=headers, preload_content=False)

    def _json(self, method: str, path: str, body: bytes | None = None) -> dict[str, Any]:
        headers = {"Content-Type": "application/json"} if body is not None else {}
        try:
            reply = self._http.request(method, self._url + path, body=body, headers=headers)
        except HTTPError as error:
            raise ServerUnreachable(f"{self._url} does not answer: {error}") from error
        if reply.status >= 400:
            raise _server_error(reply)
        value: dict[str, Any] = json.loads(reply.data) if reply.data else {}
        return value


def _head_of(reply: urllib3.BaseHTTPResponse) -> tuple[str, int]:
    """ETag and length of a reply that is the file, or a part of it. Raises ServerError, ProtocolError."""
    if reply.status not in (200, 206):
        raise _server_error(reply)
    if "ETag" not in reply.headers or "Content-Length" not in reply.headers:
        raise ProtocolError("the reply broke off in its head")
    return reply.headers["ETag"], int(reply.headers["Content-Length"])


def _rest_of(options: Options, done: int) -> Options:
    """The options of the same request without its first ``done`` bytes."""
    if not done:
        return options
    rest = dict(options) | {"offset": [str(int(options.get("offset", ["0"])[0]) + done)]}
    return rest | ({"length": [str(int(options["length"][0]) - done)]} if "length" in options else {})


def _server_error(reply: urllib3.BaseHTTPResponse) -> ServerError:
    try:
        problem = json.loads(reply.data)
    except ValueError:
        problem = {"detail": reply.data[:200].decode(errors="replace")}
    return ServerError(reply.status, problem if isinstance(problem, dict) else {})
