"""Requests over REST that are wrong, each with the one code that must come back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from soak.forms import HttpRequest
from soak.ledger import CUT
from soak.menu import KEPT
from soak.visitor import RETRY, Visitor
from soak.wire import CutError, connect

__all__ = ["REST_NONSENSE_VISITS", "REST_WRONG"]

JSON, BYTES = ("content-type", "application/json"), ("content-type", "application/octet-stream")
W = {"t": [0.5] * 8, "bias": [0.0] * 32}
SMALL = KEPT[0].name
RESIDENCY = f"/v1/models/{SMALL}/residency"
REJECTED = 400
HUGE = 1 << 40


@dataclass(frozen=True)
class Wrong:
    """A request and the code that it must be answered with (a full gate may say so first)."""

    code: str
    request: HttpRequest


def _post(code: str, value: object, *headers: tuple[str, str], target: str = "/fabricate") -> Wrong:
    return Wrong(code, HttpRequest("POST", target, json.dumps(value).encode(), (JSON, *headers)))


def _fabricate(code: str, *headers: tuple[str, str], **fields: object) -> Wrong:
    return _post(code, {"model": SMALL, "w": W} | fields, *headers)


def _spec(name: str = "soak/never", **tensor: object) -> dict[str, Any]:
    return {"name": name, "seed": 1, "tensors": [{"name": "t", "shape": [4]} | tensor]}


def _bytes(code: str, body: bytes, query: str = f"model={SMALL}", *headers: tuple[str, str]) -> Wrong:
    return Wrong(code, HttpRequest("POST", f"/fabricate?{query}", body, (BYTES, *headers)))


def _plain(code: str, method: str, target: str, headers: Mapping[str, str] | None = None) -> Wrong:
    return Wrong(code, HttpRequest(method, target, b"", tuple((headers or {}).items())))


def _integers() -> bytes:
    header = json.dumps({"t": {"dtype": "I32", "shape": [8], "data_offsets": [0, 32]}}).encode()
    return len(header).to_bytes(8, "little") + header + bytes(32)


REST_WRONG = (
    Wrong("malformed_json", HttpRequest("POST", "/fabricate", b'{"model": ', (JSON,))),
    Wrong("malformed_json", HttpRequest("POST", "/fabricate", b"\xff\xfe\x00", (JSON,))),
    _post("invalid_request", []),
    _post("invalid_request", {"model": SMALL, "seed": 1}),
    _fabricate("invalid_request", colour="red"),
    _fabricate("invalid_request", offset=-1),
    _fabricate("invalid_request", ("x-request-timeout", "soon")),
    _fabricate("model_not_found", model="soak/none"),
    _fabricate("w_missing", w={}),
    _fabricate("w_unexpected", w=W | {"other": [1.0]}),
    _fabricate("w_wrong_length", w=W | {"t": [1.0] * 9}),
    _fabricate("w_wrong_length", w=W | {"t": []}),
    _fabricate("w_wrong_type", w=W | {"t": [[[1.0] * 8]]}),
    _fabricate("w_wrong_type", w=W | {"t": ["1"] * 8}),
    _fabricate("w_not_finite", w=W | {"t": [1e300] * 8}),
    _fabricate("tensor_unknown", tensors=["other"]),
    _fabricate("dtype_unknown", dtype="F8"),
    _fabricate("rows_out_of_range", rows={"t": [0, 25]}),
    _fabricate("offset_out_of_range", offset=HUGE),
    _fabricate("etag_mismatch", ("if-match", '"another"')),
    _post("invalid_spec", _spec(r=0)),
    _post("invalid_spec", _spec(shape=[0]), target="/v1/models"),
    _post("output_too_large", _spec(shape=[1 << 20, 64], l=4) | {"w": {"t": [1.0] * 4}}),
    _post("model_conflict", _spec(SMALL), target="/v1/models"),
    Wrong("malformed_json", HttpRequest("POST", "/v1/models", b"]", (JSON,))),
    _bytes("malformed_safetensors", b"\x10\x00"),
    _bytes("malformed_safetensors", _integers()[:-1]),
    _bytes("w_wrong_dtype", _integers()),
    _bytes("invalid_request", _integers(), "colour=red"),
    _bytes("invalid_request", _integers(), ""),
    _bytes("body_too_large", b"x", f"model={SMALL}", ("content-length", str(HUGE))),
    Wrong("body_too_large", HttpRequest("POST", "/fabricate", b"1" * (600 << 10), (JSON,))),
    Wrong("body_too_large", HttpRequest("POST", "/v1/models", b"x", (JSON, ("content-length", str(HUGE))))),
    Wrong("body_too_large", HttpRequest("PUT", RESIDENCY, b"x", (JSON, ("content-length", str(HUGE))))),
    Wrong("malformed_json", HttpRequest("PUT", RESIDENCY, b"[" * 30_000, (JSON,))),
    Wrong("unsupported_media_type", HttpRequest("POST", "/fabricate", b"hello", (("content-type", "text/plain"),))),
    _plain("method_not_allowed", "GET", "/fabricate"),
    _plain("method_not_allowed", "PATCH", "/v1/models"),
    _plain("route_not_found", "GET", "/v2/models"),
    _plain("model_not_found", "GET", "/v1/models/soak/none"),
    _plain("model_not_found", "DELETE", f"/v1/models/{'0' * 64}"),
    _plain("invalid_request", "GET", "/v1/models?limit=0"),
    Wrong("invalid_request", HttpRequest("PUT", RESIDENCY, b'{"residency": "warm"}', (JSON,))),
    Wrong("model_not_found", HttpRequest("PUT", "/v1/models/none/residency", b'{"residency": "auto"}', (JSON,))),
)

# What is no HTTP never reaches the application: the connection is closed, behind a bare 400 where there is time for it.
RUBBISH = (
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"POST /fabricate HTTP/1.1\r\nhost: x\r\ncontent-length: -5\r\n\r\n",
    b"POST /fabricate HTTP/1.1\r\nhost: x\r\ncontent-length: many\r\n\r\n",
    b"POST /fabricate HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\nabcd",
    b"POST /fabricate HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nnot a number\r\n",
    b"GET /fabricate HTTP/9.9\r\nhost: x\r\n\r\n",
    b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
)


async def talk_nonsense(visitor: Visitor) -> None:
    """Every wrong request once, in any order."""
    for wrong in visitor.rng.sample(REST_WRONG, len(REST_WRONG)):
        async with connect(visitor.address) as connection:
            request_id = await visitor.ask(connection, wrong.request)
            head = await connection.head()
            code = await visitor.problem(connection, head, request_id)
            if code != wrong.code and code not in RETRY:
                visitor.fail(request_id, f"{code}, expected {wrong.code}, of {wrong.request!r:.300}")


async def talk_rubbish(visitor: Visitor) -> None:
    """Bytes that are no HTTP."""
    for data in visitor.rng.sample(RUBBISH, len(RUBBISH)):
        async with connect(visitor.address) as connection:
            await connection.send_raw(data)
            try:
                status = (await connection.head()).status
            except CutError:
                visitor.ended("", CUT)
                continue
            if status != REJECTED:
                visitor.fail("", f"status {status} to {data!r}")
            visitor.ended("", f"status {status}")


REST_NONSENSE_VISITS = {talk_nonsense: 1, talk_rubbish: 1}
