"""POST /fabricate against a real server: status, headers and errors."""

from __future__ import annotations

import json
import struct
from typing import Any
from urllib.parse import urlencode

import numpy as np
import pytest
import safetensors.torch
from support.inline import INLINE, TENSORS, W
from support.server import Server
from weightloom.fabric import safetensors as format_
from weightloom.requests import OPTIONS_METADATA, SPEC_METADATA, FabricateRequest, request_to_safetensors

SPEC = {"name": "inline", "seed": 12345, "tensors": TENSORS}


def post(server: Server, value: Any = INLINE, **headers: str) -> Any:
    return server.post_json("/fabricate", value, **headers)


def post_file(server: Server, body: bytes, **query: Any) -> Any:
    path = "/fabricate?" + urlencode(query, doseq=True)
    return server.request("POST", path, body, content_type="application/octet-stream")


def w_file(metadata: dict[str, str] | None = None) -> bytes:
    return format_.write(metadata or {}, {name: np.array(value, np.float32) for name, value in W.items()})


def test_the_reply_is_a_safetensors_file_with_length_etag_and_timing(server: Server) -> None:
    reply = post(server)
    assert reply.status == 200
    assert int(reply.headers["Content-Length"]) == len(reply.data)
    assert reply.headers["ETag"].startswith('"wl1-')
    assert "plan;dur=" in reply.headers["Server-Timing"]
    assert "Transfer-Encoding" not in reply.headers
    tensors = safetensors.torch.load(reply.data)
    assert {name: tuple(tensor.shape) for name, tensor in tensors.items()} == {"t": (6, 5), "b": (2,), "one": (2, 2)}
    assert tensors["b"].tolist() == W["b"]


def test_a_file_body_gives_the_file_of_the_json_body(server: Server) -> None:
    expected = post(server).data
    assert post_file(server, w_file({SPEC_METADATA: json.dumps(SPEC)})).data == expected


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_options_mean_the_same_in_both_forms(server: Server, dtype: str) -> None:
    options: dict[str, Any] = {"dtype": dtype, "offset": 9, "length": 200}
    body = w_file({SPEC_METADATA: json.dumps(SPEC)})
    as_file = post_file(server, body, rows=["t=1:4"], **options)
    as_json = post(server, INLINE | options | {"rows": {"t": [1, 4]}})
    assert as_json.status == as_file.status == 206
    assert as_file.data == as_json.data
    assert as_file.headers["ETag"] == as_json.headers["ETag"]


def test_registered_models_are_fabricated_by_name_and_digest(server: Server) -> None:
    model = server.post_json("/v1/models", SPEC | {"name": "contract/by-name"}).json()
    by_name = post(server, {"model": "contract/by-name", "w": W})
    by_digest = post(server, {"model": model["digest"], "w": W})
    by_file = post_file(server, w_file(), model="contract/by-name")
    inline = post(server, INLINE | {"name": "contract/by-name"})
    assert by_name.status == 200
    assert by_name.data == by_digest.data == by_file.data == inline.data
    subset = post_file(server, w_file(), model="contract/by-name", tensors=["t", "one"], dtype="BF16")
    assert set(safetensors.torch.load(subset.data)) == {"t", "one"}


def test_a_cut_transfer_goes_on_at_its_byte(server: Server) -> None:
    whole = post(server)
    etag = whole.headers["ETag"]
    for offset in (1, 8, 333, len(whole.data) - 1):
        rest = post(server, INLINE | {"offset": offset}, if_match=etag)
        assert rest.status == 206
        assert rest.data == whole.data[offset:]
        assert rest.headers["ETag"] == etag
        size = len(whole.data)
        assert rest.headers["Content-Range"] == f"bytes {offset}-{size - 1}/{size}"
    nothing = post(server, INLINE | {"offset": len(whole.data)}, if_match=etag)
    assert (nothing.status, nothing.data) == (206, b"")
    assert nothing.headers["Content-Range"] == f"bytes */{len(whole.data)}"
    assert post(server, INLINE | {"offset": 5}, if_match="W/" + etag).status == 412
    other = post(server, INLINE | {"offset": 5, "dtype": "F16"}, if_match=etag)
    assert (other.status, other.json()["code"]) == (412, "etag_mismatch")


def test_if_none_match_saves_the_transfer(server: Server) -> None:
    etag = post(server).headers["ETag"]
    for condition in (etag, f'"other", {etag}', f"W/{etag}", "*"):
        same = post(server, if_none_match=condition)
        assert (same.status, same.data, same.headers["ETag"]) == (304, b"", etag)
    assert post(server, if_none_match='"other"').status == 200


def test_numbers_in_text_are_rounded_once(server: Server) -> None:
    """The text lies just above the middle between 1 and the next float32; as float64 it would be that middle."""
    template = '{"seed":1,"tensors":[{"name":"b","shape":[2],"kind":"identity"}],"w":{"b":[%s,1]}}'
    for text, expected in (("1.00000005960464477540", 1 + 2**-23), ("1.00000005960464477538", 1.0)):
        body = (template % text).encode()
        reply = server.request("POST", "/fabricate", body, content_type="application/json")
        assert safetensors.torch.load(reply.data)["b"].tolist() == [expected, 1.0]


def broken(**changes: Any) -> dict[str, Any]:
    return INLINE | changes


WRONG: list[tuple[str, Any, int, str, str]] = [
    ("unknown model", {"model": "nope", "w": {}}, 404, "model_not_found", ""),
    ("neither model nor seed", {"w": W}, 422, "invalid_request", "body"),
    ("model and seed", broken(model="x"), 422, "invalid_request", "body"),
    ("unknown field", broken(colour="red"), 422, "invalid_request", "colour"),
    ("spec", broken(tensors=[{"name": "t", "shape": [0]}]), 422, "invalid_spec", "tensors[0].shape[0]"),
    ("seed", broken(seed=-1), 422, "invalid_spec", "seed"),
    ("w missing", broken(w={"b": W["b"]}), 422, "w_missing", "w['t']"),
    ("w of another", broken(w=W | {"x": [1]}), 422, "w_unexpected", "w['x']"),
    ("w of a constant", broken(w=W | {"one": [1]}), 422, "w_unexpected", "w['one']"),
    ("w too short", broken(w=W | {"t": [1, 2]}), 422, "w_wrong_length", "w['t']"),
    ("w ragged", broken(w=W | {"t": [[1, 2, 3], [1]]}), 422, "w_wrong_length", "w['t']"),
    ("w of text", broken(w=W | {"t": [1, "2", 3]}), 422, "w_wrong_type", "w['t'][1]"),
    ("w of truth", broken(w=W | {"t": [1, True, 3]}), 422, "w_wrong_type", "w['t'][1]"),
    ("w null", broken(w=W | {"t": None}), 422, "w_wrong_type", "w['t']"),
    ("w not finite", broken(w=W | {"t": [1, float("nan"), 3]}), 422, "w_not_finite", "w['t'][1]"),
    ("w infinite", broken(w=W | {"t": [1, float("inf"), 3]}), 422, "w_not_finite", "w['t'][1]"),
    ("w beyond float32", broken(w=W | {"t": [1, 1e39, 3]}), 422, "w_not_finite", "w['t'][1]"),
    ("dtype", broken(dtype="F8"), 422, "dtype_unknown", "dtype"),
    ("rows outside", broken(rows={"t": [0, 7]}), 422, "rows_out_of_range", "rows['t']"),
    ("rows of another", broken(rows={"x": [0, 1]}), 422, "tensor_unknown", "rows"),
    ("offset outside", broken(offset=10_000), 422, "offset_out_of_range", "offset"),
    ("length outside", broken(length=10_000), 422, "offset_out_of_range", "length"),
    ("offset negative", broken(offset=-1), 422, "invalid_request", "offset"),
    ("offset of text", broken(offset="5"), 422, "invalid_request", "offset"),
    ("rows of text", broken(rows={"t": ["0", True]}), 422, "invalid_request", "rows['t'][0]"),
    ("no object", [1, 2], 422, "invalid_request", "body"),
]


@pytest.mark.parametrize(
    ("value", "status", "code", "field"), [row[1:] for row in WRONG], ids=[row[0] for row in WRONG]
)
def test_a_wrong_request_is_told_what_is_wrong(server: Server, value: Any, status: int, code: str, field: str) -> None:
    reply = post(server, value)
    problem = reply.json()
    assert reply.headers["Content-Type"] == "application/problem+json"
    assert (reply.status, problem["status"], problem["code"]) == (status, status, code)
    assert problem["type"] == f"urn:weightloom:problem:{code}"
    assert problem["detail"]
    if field:
        assert field in [error["field"] for error in problem["errors"]]
        assert all(error["got"] and error["expected"] for error in problem["errors"])


@pytest.mark.parametrize("body", [b"", b"{", b"\xff\xfe", b'{"seed": 1,}', b"[" * 5000])
def test_malformed_json_is_told(server: Server, body: bytes) -> None:
    reply = server.request("POST", "/fabricate", body, content_type="application/json")
    assert (reply.status, reply.json()["code"]) == (422, "malformed_json")


WHOLE_W = w_file({SPEC_METADATA: json.dumps(SPEC)})
MALFORMED = {
    "empty": b"",
    "truncated header": WHOLE_W[:20],
    "truncated data": WHOLE_W[:-1],
    "huge header": struct.pack("<Q", 1 << 62) + WHOLE_W[8:],
    "overlap": WHOLE_W.replace(b'"data_offsets":[12,20]', b'"data_offsets":[04,12]'),
}


@pytest.mark.parametrize("body", MALFORMED.values(), ids=MALFORMED.keys())
def test_malformed_safetensors_are_told(server: Server, body: bytes) -> None:
    reply = post_file(server, body)
    assert (reply.status, reply.json()["code"]) == (422, "malformed_safetensors")


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ({"colour": "red"}, "invalid_request"),
        ({"model": ["a", "b"]}, "invalid_request"),
        ({"dtype": "F8"}, "dtype_unknown"),
        ({"rows": "t"}, "rows_out_of_range"),
        ({"rows": "t=1:x"}, "rows_out_of_range"),
        ({"offset": "-1"}, "offset_out_of_range"),
        ({"length": "many"}, "offset_out_of_range"),
        ({"tensors": ""}, "tensor_unknown"),
    ],
)
def test_a_wrong_query_is_told(server: Server, query: dict[str, Any], code: str) -> None:
    reply = post_file(server, WHOLE_W, **query)
    assert (reply.status, reply.json()["code"]) == (422, code)


def options_file(options: Any) -> bytes:
    """A body for SPEC with these options inside."""
    text = options if isinstance(options, str) else json.dumps(options)
    return w_file({SPEC_METADATA: json.dumps(SPEC), OPTIONS_METADATA: text})


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"dtype": "BF16"},
        {"rows": {"t": [1, 4]}},
        {"dtype": "F16", "offset": 9, "length": 200},
        {"rows": {}, "offset": 0, "length": None},
    ],
)
def test_options_inside_the_file_mean_the_same(server: Server, options: dict[str, Any]) -> None:
    inside, as_json = post_file(server, options_file(options)), post(server, INLINE | options)
    assert as_json.status in (200, 206)
    assert (inside.status, inside.data) == (as_json.status, as_json.data)
    assert inside.headers["ETag"] == as_json.headers["ETag"]


def test_options_come_in_part_in_the_query_and_in_part_in_the_file(server: Server) -> None:
    assert server.post_json("/v1/models", SPEC | {"name": "contract/inside"}).status in (200, 201)
    selection = {"tensors": ["t", "one"], "rows": {"t": [0, 2]}}
    expected = post(server, {"model": "contract/inside", "w": {"t": W["t"]}, "dtype": "F16", "offset": 3} | selection)
    assert expected.status == 206
    w = {"t": np.array(W["t"], np.float32)}
    for inside, query in (
        (selection, {"model": "contract/inside", "dtype": "F16", "offset": "3"}),
        (selection | {"model": "contract/inside", "offset": 3}, {"dtype": "F16"}),
    ):
        body = format_.write({OPTIONS_METADATA: json.dumps(inside)}, w)
        assert post_file(server, body, **query).data == expected.data


def test_rows_and_names_of_thousands_of_tensors_fit_into_a_request(server: Server) -> None:
    names = [f"model.layers.{place}.self_attn.q_proj.weight" for place in range(3000)]
    tensors = [{"name": name, "shape": [8, 2], "kind": "constant", "value": "ones"} for name in names]
    assert server.post_json("/v1/models", {"name": "contract/many", "seed": 1, "tensors": tensors}).status == 201
    rows = dict.fromkeys(names, (2, 5))
    for selection in (
        {"rows": rows},
        {"tensors": names[1:]},
        {"tensors": names[1:], "rows": dict(list(rows.items())[1:])},
    ):
        request = FabricateRequest("contract/many", **selection)
        body, query = request_to_safetensors(request)
        made = post_file(server, body, **query)
        assert made.status == 200
        assert made.data == post(server, {"model": "contract/many", "w": {}} | selection).data
    server.request("DELETE", "/v1/models/contract/many")


@pytest.mark.parametrize("field", ["model", "dtype", "tensors", "rows", "offset", "length"])
def test_an_option_in_the_query_and_in_the_file_is_refused(server: Server, field: str) -> None:
    values: dict[str, tuple[Any, str]] = {
        "model": ("m", "m"), "dtype": ("F32", "F32"), "tensors": (["t"], "t"), "rows": ({"t": [0, 1]}, "t=0:1"),
        "offset": (0, "0"), "length": (1, "1"),
    }  # fmt: skip
    inside, beside = values[field]
    reply = post_file(server, options_file({field: inside}), **{field: beside})
    problem = reply.json()
    assert (reply.status, problem["code"]) == (422, "invalid_request")
    assert [error["field"] for error in problem["errors"]] == [field]
    assert "in the query and" in problem["errors"][0]["got"]


@pytest.mark.parametrize(
    "options",
    [
        {"dtype": "F8"},
        {"dtype": 3},
        {"colour": "red"},
        {"rows": {"t": [0, 7]}},
        {"rows": {"t": [0]}},
        {"rows": {"t": [0, "1"]}},
        {"rows": {"x": [0, 1]}},
        {"rows": ["t"]},
        {"offset": -1},
        {"offset": 10_000},
        {"length": 1.5},
    ],
)
def test_wrong_options_inside_the_file_are_told_as_in_json(server: Server, options: dict[str, Any]) -> None:
    inside, as_json = post_file(server, options_file(options)), post(server, INLINE | options)
    assert inside.status == as_json.status == 422
    assert inside.json()["code"] == as_json.json()["code"]
    assert inside.json()["errors"] == as_json.json()["errors"]


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ("{", "malformed_json"),
        ("", "malformed_json"),
        ("[" * 5000, "malformed_json"),
        ('{"tensors": ["\\ud800"]}', "malformed_json"),
        ("[]", "invalid_request"),
        ("null", "invalid_request"),
        ({"tensors": ["x"]}, "tensor_unknown"),
        ({"tensors": []}, "tensor_unknown"),
        ({"model": "nope"}, "model_not_found"),
    ],
)
def test_options_inside_the_file_that_are_none_are_told(server: Server, options: Any, code: str) -> None:
    reply = post_file(server, options_file(options))
    assert (reply.status, reply.json()["code"]) == (404 if code == "model_not_found" else 422, code)


def test_a_lone_surrogate_in_the_place_of_options_is_told(server: Server) -> None:
    reply = post_file(server, options_file("sixsix").replace(b"sixsix", b"\\ud800"))
    assert (reply.status, reply.json()["code"]) == (422, "malformed_json")


def test_a_file_of_w_needs_a_model(server: Server) -> None:
    reply = post_file(server, w_file())
    assert (reply.status, reply.json()["errors"][0]["field"]) == (422, "model")


def test_other_methods_and_media_types_are_told(server: Server) -> None:
    got = server.request("GET", "/fabricate")
    assert (got.status, got.headers["Allow"], got.json()["code"]) == (405, "POST", "method_not_allowed")
    form = server.request("POST", "/fabricate", b"{}", content_type="application/x-www-form-urlencoded")
    assert (form.status, form.json()["code"]) == (415, "unsupported_media_type")
    assert "application/json" in form.json()["detail"]
    query = server.post_json("/fabricate?dtype=F16", INLINE)
    assert (query.status, query.json()["errors"][0]["field"]) == (422, "query")


HALF_WAY = b"1.000000059604644775390625"  # makes the server read the numbers' text again
TENSOR = b'{"name":"b","shape":[2],"kind":"identity"}'
HOSTILE = {
    "lone surrogate as a key": b'{"seed":1,"tensors":[%b],"w":{"b":[1,2]},"\\ud800":1}' % TENSOR,
    "lone surrogate as a tensor": b'{"seed":1,"tensors":[%b],"w":{"\\ud800":[1,2]}}' % TENSOR,
    "seed of 5000 digits": b'{"seed":%b,"tensors":[%b],"w":{"b":[1,2]}}' % (b"9" * 5000, TENSOR),
    "offset of 5000 digits": b'{"seed":1,"tensors":[%b],"w":{"b":[1,2]},"offset":%b}' % (TENSOR, b"9" * 5000),
    "rows of 5000 digits": b'{"seed":1,"tensors":[%b],"w":{"b":[1,2]},"rows":{"b":[0,%b]}}' % (TENSOR, b"9" * 5000),
    "shape of 5000 digits": b'{"seed":1,"tensors":[{"name":"b","shape":[%b]}]}' % (b"9" * 5000),
    "number of 5000 digits": b'{"seed":1,"tensors":[%b],"w":{"b":[%b,%b]}}' % (TENSOR, HALF_WAY, b"9" * 5000),
    "enormous exponent": b'{"seed":1,"tensors":[%b],"w":{"b":[%b,1e99999999999999999999]}}' % (TENSOR, HALF_WAY),
    "deep w": b'{"seed":1,"tensors":[%b],"w":{"b":%b}}' % (TENSOR, b"[" * 10_000),
    "kind that is a list": b'{"seed":1,"tensors":[{"name":"b","shape":[2],"kind":["identity"]}]}',
}


@pytest.mark.parametrize("path", ["/fabricate", "/v1/models"])
@pytest.mark.parametrize("body", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_json_is_refused_like_any_other(server: Server, body: bytes, path: str) -> None:
    reply = server.request(
        "POST", path, body.replace(b'{"seed"', b'{"name":"a","seed"', 1), content_type="application/json"
    )
    assert (reply.status, reply.json()["status"]) == (422, 422)


def test_a_vanishing_exponent_beside_a_half_way_number_is_zero(server: Server) -> None:
    body = b'{"seed":1,"tensors":[%b],"w":{"b":[%b,1e-99999999999999999999]}}' % (TENSOR, HALF_WAY)
    reply = server.request("POST", "/fabricate", body, content_type="application/json")
    assert safetensors.torch.load(reply.data)["b"].tolist() == [1.0, 0.0]
