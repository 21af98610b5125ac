"""REST over urllib3, whose connections are kept and used again."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import quote, urlencode

import urllib3
from urllib3.exceptions import ConnectTimeoutError, HTTPError, LocationValueError, NewConnectionError

from weightloom_client.errors import NO_CODE, RequestRejected, ServerError, server_error
from weightloom_client.factors import FactorBlob
from weightloom_client.protocol import Broken, Part, Wanted
from weightloom_client.transports.base import Model, Timeouts, Tls, for_balancers
from weightloom_client.transports.direct import CONNECT_SECONDS, HEADER, Direct, Redirects
from weightloom_client.transports.rest_reply import RestReply, check, data_of

__all__ = ["RestTransport"]

CONNECTIONS = 64  # kept open to one server
BYTES = "application/octet-stream"


class RestTransport:
    """See ``Transport``. headers: sent with every request. direct: see ``Redirects``."""

    def __init__(
        self, url: str, timeouts: Timeouts, headers: Mapping[str, str], tls: Tls, direct: Direct = "follow"
    ) -> None:
        self.url, self._tls, self._redirects = url.rstrip("/"), tls, Redirects(url, direct)
        self._timeout = urllib3.Timeout(connect=timeouts.connect, read=timeouts.read)
        self._direct_timeout = urllib3.Timeout(connect=min(timeouts.connect, CONNECT_SECONDS), read=timeouts.read)
        self._headers = dict(headers)
        self._http, self._process = self._connections(), os.getpid()

    def open(self, wanted: Wanted, part: Part) -> RestReply:
        """POST /fabricate with a safetensors body; from where a server redirects to, if it comes from there."""
        path = f"/fabricate?{urlencode(wanted.options | _range_of(part), doseq=True)}"
        headers = {"Content-Type": BYTES} | ({"If-Match": part.etag} if part.etag else {}) | for_balancers(wanted, part)
        declined = headers | {HEADER: "no"}
        follows = self._redirects.are_followed
        reply = self._post(path, wanted.body, headers | {HEADER: "yes"} if follows else declined)
        if reply.status == 307 and follows:
            if direct := self._follow(reply, wanted.body, declined, part):
                return direct
            reply = self._post(path, wanted.body, declined)
        check(reply, self.url)
        return RestReply(reply, part, self.url)

    def _follow(
        self, redirect: urllib3.BaseHTTPResponse, body: bytes, headers: Mapping[str, str], part: Part
    ) -> RestReply | None:
        """The part from where ``redirect`` leads to; None where it cannot be had there."""
        data_of(redirect, self.url)  # so that its connection can be used again
        location = redirect.headers.get("Location", "")
        address = self._redirects.address(location)
        if not address:
            return None
        etag = redirect.headers.get("ETag", "")
        if etag:
            headers = {**headers, "If-Match": etag}
        try:
            reply = self._post(location[len(address) :], body, headers, address)
            check(reply, address)
            direct = RestReply(reply, part, address, lambda: self._redirects.failed(address))
            if etag in ("", direct.head.etag):
                return direct
            direct.close()
        except (Broken, RequestRejected, LocationValueError):
            pass  # where it leads to is nobody, or not whom the redirect meant
        except ServerError as error:
            if error.code != NO_CODE:  # whom it meant is full, stopping, or has a fault
                raise
        self._redirects.failed(address)
        return None

    def _post(self, path: str, body: bytes, headers: Mapping[str, str], at: str = "") -> urllib3.BaseHTTPResponse:
        return self._request("POST", path, body, headers, preload_content=False, at=at)

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
        check(self._request("DELETE", _path_of(name), None, {}), self.url)

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
        check(self._request("PUT", "/v1/factors/" + blob.digest, blob.parts(), headers), self.url)

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
        check(reply, self.url)
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
        at: str = "",
    ) -> urllib3.BaseHTTPResponse:
        """at: where ``url`` has redirected to; it gets the client's own headers, unless others could read them."""
        url = at or self.url
        own = {} if self._redirects.is_downgrade(url) else self._headers
        if self._process != os.getpid():  # after a fork: its parent goes on using the connections
            self._http, self._process = self._connections(), os.getpid()
        try:
            return self._http.request(
                method,
                url + path,
                body=body,
                headers=own | dict(headers),
                preload_content=preload_content,
                timeout=self._direct_timeout if at else self._timeout,
            )
        except LocationValueError:
            raise  # a URL that names no host
        except (NewConnectionError, ConnectTimeoutError) as error:
            raise Broken(f"{url}: {error}", is_sent=False) from None  # urllib3's chain is pages long
        except HTTPError as error:
            raise Broken(f"{url}: {error}") from None


def _range_of(part: Part) -> dict[str, list[str]]:
    offset = {"offset": [str(part.offset)]} if part.offset else {}
    return offset | ({"length": [str(part.length)]} if part.length is not None else {})


def _path_of(name: str) -> str:
    """Raises ModelNotFound for a name that, as a path, would be another one."""
    if any(part in ("", ".", "..") for part in name.split("/")):
        raise server_error(404, {"code": "model_not_found", "detail": f"no model can have the name {name!r}"})
    return "/v1/models/" + quote(name)
