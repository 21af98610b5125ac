"""/v1/factors and PutFactors against a real server: uploads, models of kind imported_hypernet, and what is refused."""

from __future__ import annotations

import http.client
import os
import resource
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from support.imported import blob_of, imported, sha256_of
from support.rpc import data_of, failure_of, request_message, stub_of
from support.server import Server, running_server, wait_until
from weightloom.fabric import ModelSpec
from weightloom.fabric import safetensors as format_
from weightloom.fabric.streams import GENERATOR
from weightloom_proto.v1 import fabrication_pb2 as pb

TENSOR = {"name": "t", "shape": [6, 5], "l": 4, "r": 3, "hidden_dim": 8, "scale": 0.5}
W = {"t": [0.5, -1.0, 0.25, 2.0]}
DRAWN = {"seed": 7, "tensors": [TENSOR], "w": W}


def drawn_blob(seed: int) -> bytes:
    spec = ModelSpec.from_value({"name": "n", "seed": seed, "tensors": [TENSOR]})
    factors = spec.tensors[0].factors(seed)
    assert factors is not None
    return blob_of(factors)


BLOB = drawn_blob(7)
IMPORTED = {"seed": 1, "tensors": [imported(TENSOR, BLOB)], "w": W}


def path_of(blob: bytes) -> str:
    return f"/v1/factors/{sha256_of(blob)}"


def elements(reply: Any) -> bytes:
    return bytes(reply.data[-4 * 30 :])


def long_ago(server: Server) -> None:
    """As if the factors had been uploaded in 1970."""
    os.utime(server.data_dir / "factors" / sha256_of(BLOB), (0, 0))


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Server]:
    """A server without factors, of one test's own."""
    with running_server(tmp_path / "data", max_factors_bytes=4096) as server:
        yield server


@pytest.fixture
def impatient(tmp_path: Path) -> Iterator[Server]:
    """One that waits a second for what does not come."""
    with running_server(tmp_path / "data", max_factors_bytes=4096, stall_seconds=1) as server:
        yield server


def test_uploaded_factors_make_the_weights_that_the_same_drawn_ones_make(own: Server) -> None:
    first = own.request("PUT", path_of(BLOB), BLOB)
    again = own.request("PUT", path_of(BLOB), BLOB)
    assert (first.status, again.status) == (201, 200)
    assert first.json() == again.json() == {"sha256": sha256_of(BLOB), "size": len(BLOB)}
    made = own.post_json("/fabricate", IMPORTED)
    assert made.status == 200
    assert elements(made) == elements(own.post_json("/fabricate", DRAWN))
    assert format_.layout(made.data)[1]["generator"] == GENERATOR + "+imported"


def test_one_asks_whether_they_are_there(own: Server) -> None:
    before = own.request("GET", path_of(BLOB))
    assert (before.status, before.json()["code"]) == (404, "factors_not_found")
    own.request("PUT", path_of(BLOB), BLOB)
    assert own.request("GET", path_of(BLOB)).json()["size"] == len(BLOB)
    head = own.request("HEAD", path_of(BLOB))
    assert (head.status, head.data) == (200, b"")


def test_grpc_uploads_and_rest_finds(own: Server) -> None:
    digest = sha256_of(BLOB)
    with stub_of(own.grpc_target) as stub:
        missing = failure_of(lambda: stub.GetFactors(pb.GetFactorsRequest(sha256=digest)))
        assert (missing.status, missing.reason) == (grpc.StatusCode.NOT_FOUND, "factors_not_found")
        chunks = [pb.FactorsChunk(sha256=digest, data=BLOB[:10])]
        chunks += [pb.FactorsChunk(data=BLOB[at : at + 100]) for at in range(10, len(BLOB), 100)]
        assert stub.PutFactors(iter(chunks)) == pb.Factors(sha256=digest, size=len(BLOB))
        assert stub.GetFactors(pb.GetFactorsRequest(sha256=digest)).size == len(BLOB)
        over_grpc = data_of(stub.Fabricate(request_message(IMPORTED)))
    assert over_grpc == own.post_json("/fabricate", IMPORTED).data


def test_a_model_needs_its_factors_and_lets_them_go(own: Server) -> None:
    spec = {"name": "imported", "seed": 1, "tensors": [{"name": "b", "shape": [2], "kind": "identity"}]}
    spec["tensors"] += IMPORTED["tensors"]  # type: ignore[operator]
    for reply in (own.post_json("/v1/models", spec), own.post_json("/fabricate", IMPORTED)):
        assert (reply.status, reply.json()["code"]) == (422, "factors_missing")
        assert "factors_sha256" in reply.json()["errors"][0]["field"]
        assert f"{len(BLOB)} bytes" in reply.json()["errors"][0]["expected"]
    own.request("PUT", path_of(BLOB), BLOB)
    made = own.post_json("/v1/models", spec)
    assert made.status == 201
    assert made.json()["generator"].endswith("+imported")
    assert made.json()["tensors"][1]["factors_sha256"] == sha256_of(BLOB)
    long_ago(own)
    assert own.request("DELETE", "/v1/models/imported").status == 204
    assert own.request("GET", path_of(BLOB)).status == 404


def test_a_model_may_import_more_blobs_than_the_server_may_open_files(own: Server) -> None:
    drawn = [TENSOR | {"name": f"t{number}", "shape": [number + 1]} for number in range(200)]
    tensors, w = [], {}
    for tensor in drawn:
        blob = bytes(4 * 3 * (4 + 2 * 8 + tensor["shape"][0]))  # type: ignore[index]
        assert own.request("PUT", path_of(blob), blob).status == 201
        tensors.append(imported(tensor, blob))
        w[tensor["name"]] = W["t"]
    for pid in own.workers():
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (100, 100))
    spec = {"name": "many", "seed": 1, "tensors": tensors}
    assert own.post_json("/v1/models", spec).status == 201
    with ThreadPoolExecutor(4) as several:
        replies = list(several.map(lambda _: own.post_json("/fabricate", {"model": "many", "w": w}).status, range(8)))
    assert replies == [200] * 8


def ask_rest(server: Server) -> None:
    assert server.request("GET", path_of(BLOB)).status == 200


def ask_head(server: Server) -> None:
    assert server.request("HEAD", path_of(BLOB)).status == 200


def ask_grpc(server: Server) -> None:
    with stub_of(server.grpc_target) as stub:
        stub.GetFactors(pb.GetFactorsRequest(sha256=sha256_of(BLOB)))


def put_again(server: Server) -> None:
    assert server.request("PUT", path_of(BLOB), BLOB).status == 200


@pytest.mark.parametrize("interest", [ask_rest, ask_head, ask_grpc, put_again])
def test_factors_stay_for_who_found_or_sent_them_a_moment_ago(own: Server, interest: Callable[[Server], None]) -> None:
    own.request("PUT", path_of(BLOB), BLOB)
    spec = {"name": "first", "seed": 1, "tensors": IMPORTED["tensors"]}
    assert own.post_json("/v1/models", spec).status == 201
    long_ago(own)
    interest(own)
    assert own.request("DELETE", "/v1/models/first").status == 204
    assert own.post_json("/v1/models", spec | {"name": "second"}).status == 201


def test_what_is_not_what_it_says_is_refused_and_leaves_nothing(own: Server) -> None:
    nan = np.array([1, np.nan], "<f4").tobytes()
    wrong = own.request("PUT", path_of(BLOB), BLOB[:-4])
    bad = own.request("PUT", path_of(nan), nan)
    assert (wrong.status, wrong.json()["code"]) == (422, "factors_mismatch")
    assert sha256_of(BLOB[:-4]) in wrong.json()["errors"][0]["got"]
    assert (bad.status, bad.json()["code"]) == (422, "factors_not_finite")
    assert own.request("PUT", "/v1/factors/elsewhere", BLOB).status == 422
    assert list((own.data_dir / "factors").iterdir()) == []


@pytest.mark.parametrize("announced", [True, False])
def test_too_much_is_refused(own: Server, announced: bool) -> None:
    blob = bytes(5000)
    body: Any = blob if announced else iter([blob[:2500], blob[2500:]])
    reply = own.request("PUT", path_of(blob), body)
    assert (reply.status, reply.json()["code"]) == (413, "body_too_large")
    assert "max_factors_bytes" in reply.json()["detail"]
    chunk = pb.FactorsChunk(sha256=sha256_of(blob), data=blob)
    with stub_of(own.grpc_target) as stub:
        failure = failure_of(lambda: stub.PutFactors(iter([chunk])))
    assert (failure.status, failure.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "body_too_large")
    assert not list((own.data_dir / "factors").glob("*"))


UPLOAD = f"PUT {path_of(BLOB)} HTTP/1.1\r\nHost: h\r\nContent-Length: {len(BLOB)}\r\n\r\n".encode()


def parts_of(server: Server) -> list[Path]:
    return list((server.data_dir / "factors").glob("*"))


def test_an_upload_that_breaks_off_leaves_nothing(own: Server) -> None:
    with own.connect() as gone:
        gone.sendall(UPLOAD + BLOB[:100])
        wait_until(lambda: parts_of(own))
    wait_until(lambda: not parts_of(own))


def test_an_upload_that_stalls_leaves_nothing(impatient: Server) -> None:
    with impatient.connect() as stalled:
        stalled.sendall(UPLOAD + BLOB[:100])
        reply = http.client.HTTPResponse(stalled)
        reply.begin()
        assert b"sender_stalled" in reply.read()
    wait_until(lambda: not parts_of(impatient))


def test_only_the_first_chunk_of_an_upload_names_it(own: Server) -> None:
    chunk = pb.FactorsChunk(sha256=sha256_of(BLOB), data=BLOB[:10])
    cases = [([chunk, chunk], "sha256"), ([], "message"), ([pb.FactorsChunk(data=BLOB)], "sha256")]
    with stub_of(own.grpc_target) as stub:
        for chunks, field in cases:
            failure = failure_of(lambda chunks=chunks: stub.PutFactors(iter(chunks)))  # type: ignore[misc]
            assert (failure.status, failure.fields) == (grpc.StatusCode.INVALID_ARGUMENT, [field])


def test_another_method_is_told_which_ones_there_are(own: Server) -> None:
    reply = own.request("POST", path_of(BLOB), BLOB)
    assert (reply.status, reply.json()["code"]) == (405, "method_not_allowed")
    assert reply.headers["Allow"] == "GET, HEAD, PUT"


def test_uploads_are_counted_and_have_a_request_id(own: Server) -> None:
    reply = own.request("PUT", path_of(BLOB), BLOB, x_request_id="mine")
    assert reply.headers["X-Request-Id"] == "mine"
    line = 'weightloom_requests_total{call="put_factors",code="ok",front="rest"} 1.0'
    wait_until(lambda: line in own.request("GET", "/metrics").data.decode())
