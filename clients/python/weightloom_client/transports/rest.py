"""REST over urllib3, whose connections are kept and used again."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import quote, urlencode

import urllib3
from urllib3.exceptions import ConnectTimeoutError, HTTPError, LocationValueError, NewConnectionError

from weightloom_client.errors import ServerError, server_error
from weightloom_client.factors import FactorBlob
from weightloom_client.protocol import Broken, Head, Part, Wanted
from weightloom_client.transports.base import Model, Timeouts, Tls

__all__ = ["RestTransport"]

CONNECTIONS = 64  # kept open to one server
BYTES = "application/octet-stream"
CONTENT_RANGE = re.compile(r"bytes (?:(\d+)-\d+|\*)/(\d+)")


class RestTransport:
    """See ``Transport``. headers: sent with every request."""

    def __init__(self, url: str, timeouts: Timeouts, headers: Mapping[str, str], tls: Tls) -> None:
        self.url, self._tls = url.rstrip("/"), tls
        self._timeout = urllib3.Timeout(connect=timeouts.connect, read=timeouts.read)
        self._headers = dict(headers)
        self._http, self._process = self._connections(), os.getpid()

    def open(self, wanted: Wanted, part: Part) -> RestReply:
        """POST /fabricate with a safetensors body."""
        query = urlencode(wanted.options | _range_of(part), doseq=True)
        headers = {"Content-Type": BYTES} | ({"If-Match": part.etag} if part.etag else {})
        reply = self._request("POST", f"/fabricate?{query}", wanted.body, headers, preload_content=False)
        _check(reply)
        return RestReply(reply, part)

    def create_model(self, spec: Mapping[str, Any]) -> Model:
        """POST /v1/models."""
        return self._json("POST", "/v1/models", spec)

    def get_model(self, name: str) -> Model:
        """GET /v1/models/NAME."""
        return self._json("GET", _path_of(name))

    def list_models(self, after: str) -> tuple[list[Model], str]:
        """GET /v1/models."""
        page = self._json("GET", "/v1/models?" + urlencode({"after": after}), expect="models")
        return page["models"], page["next"] or ""

    def delete_model(self, name: str) -> None:
        """DELETE /v1/models/NAME."""
        _check(self._request("DELETE", _path_of(name), None, {}))

    def set_residency(self, name: str, residency: str | None) -> Model:
        """PUT /v1/models/NAME/residency."""
        return self._json("PUT", f"{_path_of(name)}/residency", {"residency": residency})

    def has_factors(self, blob: FactorBlob) -> bool:
        """GET /v1/factors/SHA256."""
        try:
            return bool(self._json("GET", "/v1/factors/" + blob.digest, expect="size")["size"] == blob.size)
        except ServerError as error:
            if error.code != "factors_not_found":
                raise
            return False

    def put_factors(self, blob: FactorBlob) -> None:
        """PUT /v1/factors/SHA256."""
        headers = {"Content-Type": BYTES, "Content-Length": str(blob.size)}
        _check(self._request("PUT", "/v1/factors/" + blob.digest, blob.parts(), headers))

    def close(self) -> None:
        """Close the connections that nothing uses."""
        self._http.clear()

    def _connections(self) -> urllib3.PoolManager:
        tls = {"ca_certs": self._tls.ca, "cert_file": self._tls.certificate, "key_file": self._tls.key}
        given: dict[str, Any] = {name: os.fspath(path) for name, path in tls.items() if path is not None}
        return urllib3.PoolManager(maxsize=CONNECTIONS, timeout=self._timeout, retries=False, **given)

    def _json(self, method: str, path: str, value: Any = None, expect: str = "digest") -> Model:
        body = None if value is None else json.dumps(value).encode()
        reply = self._request(method, path, body, {} if body is None else {"Content-Type": "application/json"})
        _check(reply)
        with suppress(ValueError):
            answer: Model = json.loads(reply.data)
            if isinstance(answer, dict) and expect in answer:
                return answer
        raise Broken(f"{self.url} answers with what is none of weightloom's")

    def _request(
        self,
        method: str,
        path: str,
        body: bytes | Iterator[bytes] | None,
        headers: Mapping[str, str],
        *,
        preload_content: bool = True,
    ) -> urllib3.BaseHTTPResponse:
        if self._process != os.getpid():  # after a fork: its parent goes on using the connections
            self._http, self._process = self._connections(), os.getpid()
        try:
            return self._http.request(
                method,
                self.url + path,
                body=body,
                headers=self._headers | dict(headers),
                preload_content=preload_content,
            )
        except LocationValueError:
            raise  # a URL that names no host
        except (NewConnectionError, ConnectTimeoutError) as error:
            raise Broken(f"{self.url}: {error}", is_sent=False) from None  # urllib3's chain is pages long
        except HTTPError as error:
            raise Broken(f"{self.url}: {error}") from None


class RestReply:
    """See ``Reply``."""

    step = 1 << 20

    def __init__(self, reply: urllib3.BaseHTTPResponse, part: Part) -> None:
        self._reply, self._left = reply, 0
        try:
            self.head = _head_of(reply, part)
        except BaseException:
            self.close()
            raise
        self._left = self.head.length

    def readinto(self, view: memoryview) -> int:
        """One read of the socket: whatever has come is kept, though the connection may end right behind it.

        urllib3's own readinto would wait for all of ``view`` and lose what came where the rest does not.
        """
        try:
            data = self._reply.read1(len(view))
        except (HTTPError, OSError, ValueError) as error:
            raise Broken(f"the reply broke off: {error}") from error
        view[: len(data)] = data
        self._left -= len(data)
        return len(data)

    def cancel(self) -> None:
        """Closing would wait for the thread that reads."""
        with suppress(ValueError, RuntimeError, OSError):  # it has ended already
            self._reply.shutdown()

    def close(self) -> None:
        """A connection whose reply was not read to its end cannot be used again."""
        if self._left == 0:
            self._reply.release_conn()
        self._reply.close()


def _range_of(part: Part) -> dict[str, list[str]]:
    offset = {"offset": [str(part.offset)]} if part.offset else {}
    return offset | ({"length": [str(part.length)]} if part.length is not None else {})


def _head_of(reply: urllib3.BaseHTTPResponse, part: Part) -> Head:
    """Raises Broken where the head is not whole: a proxy, or a server that died while it wrote."""
    headers = reply.headers
    if "ETag" not in headers or "Content-Length" not in headers:
        raise Broken("the reply broke off in its head, or is none of weightloom's")
    length = int(headers["Content-Length"])
    found = CONTENT_RANGE.fullmatch(headers.get("Content-Range", ""))
    if found is None:
        return Head(headers["ETag"], length, 0, length)
    return Head(headers["ETag"], int(found[2]), int(found[1]) if found[1] else part.offset, length)


def _check(reply: urllib3.BaseHTTPResponse) -> None:
    """Raise what the reply's status says, unless it is one of success."""
    if not 200 <= reply.status < 300:
        raise _refusal(reply)


def _refusal(reply: urllib3.BaseHTTPResponse) -> ServerError:
    try:
        data = reply.data
    except HTTPError as error:
        raise Broken(f"a reply with status {reply.status} broke off: {error}") from error
    elsewhere = f"redirected to {reply.headers['Location']}: " if "Location" in reply.headers else ""
    problem: Any = {"detail": elsewhere + data[:200].decode(errors="replace")}
    with suppress(ValueError):
        problem = json.loads(data)
    return server_error(
        reply.status,
        problem if isinstance(problem, dict) else {},
        request_id=reply.headers.get("X-Request-Id", ""),
        retry_after=_seconds(reply.headers.get("Retry-After", "")),
    )


def _seconds(retry_after: str) -> float | None:
    """Of a Retry-After, which is a number or a date."""
    if retry_after.isdigit():
        return float(retry_after)
    try:
        return max(0.0, parsedate_to_datetime(retry_after).timestamp() - time.time())
    except ValueError:
        return None


def _path_of(name: str) -> str:
    """Raises ModelNotFound for a name that, as a path, would be another one."""
    if any(part in ("", ".", "..") for part in name.split("/")):
        raise server_error(404, {"code": "model_not_found", "detail": f"no model can have the name {name!r}"})
    return "/v1/models/" + quote(name)
