"""FabricationService against a real server: every call, what it gives, and how it says what is wrong."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf.empty_pb2 import Empty
from support.inline import INLINE, TENSORS, W
from support.rpc import (
    channel_to,
    data_of,
    failure_of,
    request_message,
    silence,
    spec_message,
    stub_of,
    tensor_message,
)
from support.server import Server, running_server
from weightloom.fabric import safetensors as format_
from weightloom.requests import OPTIONS_METADATA
from weightloom.rpc.service import SERVICE
from weightloom_proto.v1 import fabrication_pb2 as pb

W_FILE = format_.write({}, {name: np.array(value, np.float32) for name, value in W.items()})
INVALID = grpc.StatusCode.INVALID_ARGUMENT


@pytest.fixture(scope="module")
def stub(server: Server) -> Iterator[Any]:
    with stub_of(server.grpc_target) as stub:
        yield stub


def test_the_first_chunk_tells_of_the_file_and_the_bytes_are_those_of_rest(stub: Any, server: Server) -> None:
    chunks = list(stub.Fabricate(request_message(INLINE)))
    rest = server.post_json("/fabricate", INLINE)
    assert data_of(iter(chunks)) == rest.data
    assert (chunks[0].total_size, chunks[0].etag) == (len(rest.data), rest.headers["ETag"])
    assert chunks[0].model_digest == rest.headers["X-Weightloom-Digest"]
    assert all(chunk.data and not chunk.etag and not chunk.total_size for chunk in chunks[1:])


def test_long_files_come_in_chunks_that_any_client_takes(tmp_path: Path) -> None:
    request = {"seed": 1, "tensors": [{"name": "t", "shape": [3000, 1000]}], "w": {"t": [0.5] * 64}}
    with running_server(tmp_path / "data", tile_bytes=8 << 20) as server, stub_of(server.grpc_target) as stub:
        chunks = list(stub.Fabricate(request_message(request)))
        assert data_of(iter(chunks)) == server.post_json("/fabricate", request).data
    assert max(len(chunk.data) for chunk in chunks) == 1 << 20
    assert [bool(chunk.etag) for chunk in chunks] == [True] + [False] * (len(chunks) - 1)


def as_file(**options: Any) -> pb.FabricateRequest:
    return pb.FabricateRequest(spec=spec_message(INLINE), w_safetensors=W_FILE, **options)


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_options_mean_the_same_as_over_rest(stub: Any, server: Server, dtype: str) -> None:
    rows = {"t": pb.Rows(first=1, last=4)}
    options: dict[str, Any] = {"dtype": f"DTYPE_{dtype}", "tensors": ["t", "one"], "offset": 9, "length": 200}
    over_rest = {"dtype": dtype, "tensors": ["t", "one"], "offset": 9, "length": 200, "rows": {"t": [1, 4]}}
    model = server.post_json("/v1/models", {"name": "grpc/options", "seed": 12345, "tensors": TENSORS}).json()
    expected = server.post_json("/fabricate", {"model": model["digest"], "w": W} | over_rest)
    assert expected.status == 206
    for source in (
        {"model": "grpc/options", "w": {name: pb.Vector(values=values) for name, values in W.items()}},
        {"model": model["digest"], "w_safetensors": W_FILE},
    ):
        chunks = list(stub.Fabricate(pb.FabricateRequest(rows=rows, **source, **options)))
        assert data_of(iter(chunks)) == expected.data
        assert chunks[0].etag == expected.headers["ETag"]


def test_absent_fields_have_the_defaults_of_rest(stub: Any, server: Server) -> None:
    bare = pb.FabricateRequest(
        spec=pb.ModelSpec(tensors=[pb.TensorSpec(name="t", shape=[5])]), w={"t": pb.Vector(values=range(64))}
    )
    request = {"seed": 0, "tensors": [{"name": "t", "shape": [5]}], "w": {"t": list(range(64))}}
    assert data_of(stub.Fabricate(bare)) == server.post_json("/fabricate", request).data


def test_a_batch_of_w_gives_a_batch_of_tensors(stub: Any, server: Server) -> None:
    pairs = {"t": [[0.5, -1.5, 2.0], [1.0, 0.0, 3.0]], "b": [[1.0, 2.0], [3.0, 4.0]]}
    w = {name: pb.Vector(values=np.ravel(values).tolist(), batch=2) for name, values in pairs.items()}
    made = data_of(stub.Fabricate(pb.FabricateRequest(spec=spec_message(INLINE), w=w)))
    assert made == server.post_json("/fabricate", INLINE | {"w": pairs}).data
    single = {name: pb.Vector(values=values, batch=1) for name, values in W.items()}
    made = data_of(stub.Fabricate(pb.FabricateRequest(spec=spec_message(INLINE), w=single)))
    assert format_.layout(made)[0]["t"].shape == (1, 6, 5)


def test_a_cut_stream_goes_on_at_its_byte(stub: Any) -> None:
    chunks = list(stub.Fabricate(request_message(INLINE)))
    whole, etag = data_of(iter(chunks)), chunks[0].etag
    for offset in (1, 333, len(whole) - 1):
        (rest,) = stub.Fabricate(request_message(INLINE, offset=offset, if_match=etag))
        assert (rest.data, rest.total_size, rest.etag) == (whole[offset:], len(whole), etag)
    for fields in ({"offset": len(whole)}, {"length": 0}):
        (nothing,) = stub.Fabricate(request_message(INLINE, if_match=etag, **fields))
        assert (nothing.data, nothing.total_size, nothing.etag) == (b"", len(whole), etag)
    other = failure_of(lambda: list(stub.Fabricate(request_message(INLINE, dtype="DTYPE_F16", if_match=etag))))
    assert (other.status, other.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "etag_mismatch")
    assert other.fields == ["if_match"]


def test_a_large_request_is_read_like_a_small_one(stub: Any, server: Server) -> None:
    request = {"seed": 1, "tensors": [{"name": "b", "shape": [100_000], "kind": "identity"}]}
    values = np.random.default_rng(1).standard_normal(100_000).astype(np.float32)
    made = data_of(stub.Fabricate(request_message(request | {"w": {"b": values}})))
    assert made[-values.nbytes :] == values.tobytes()


def test_models_are_registered_shown_listed_and_deleted(stub: Any, server: Server) -> None:
    spec = {"name": "grpc/life", "seed": 2**64 - 1, "tensors": TENSORS}
    made = stub.CreateModel(pb.CreateModelRequest(spec=spec_message(spec)))
    over_rest = server.request("GET", "/v1/models/grpc/life").json()
    assert made == stub.CreateModel(pb.CreateModelRequest(spec=spec_message(spec)))
    for name in ("grpc/life", made.digest):
        assert stub.GetModel(pb.GetModelRequest(name=name)) == made
    for field in ("digest", "generator", "created_at", "description"):
        assert getattr(made, field) == over_rest[field]
    assert (int(made.numel), int(made.w_numbers)) == (over_rest["numel"], over_rest["w_numbers"])
    assert made.spec.seed == 2**64 - 1
    kinds = [tensor.WhichOneof("kind") for tensor in made.spec.tensors]
    assert kinds == ["random_matrix_hypernet", "identity", "constant"]
    assert made.spec.tensors[0].random_matrix_hypernet.hidden_dim == 128, "defaults are filled in"
    stub.CreateModel(pb.CreateModelRequest(spec=made.spec))
    assert stub.DeleteModel(pb.DeleteModelRequest(name="grpc/life")) == Empty()
    for call in (
        lambda: stub.GetModel(pb.GetModelRequest(name=made.digest)),
        lambda: stub.DeleteModel(pb.DeleteModelRequest(name="grpc/life")),
        lambda: list(stub.Fabricate(pb.FabricateRequest(model="grpc/life"))),
        lambda: stub.GetModel(pb.GetModelRequest()),
    ):
        gone = failure_of(call)
        assert (gone.status, gone.reason) == (grpc.StatusCode.NOT_FOUND, "model_not_found")


def test_another_model_under_the_name_already_exists(stub: Any) -> None:
    spec = {"name": "grpc/taken", "seed": 1, "tensors": TENSORS}
    stub.CreateModel(pb.CreateModelRequest(spec=spec_message(spec)))
    taken = failure_of(lambda: stub.CreateModel(pb.CreateModelRequest(spec=spec_message(spec | {"seed": 2}))))
    assert (taken.status, taken.reason) == (grpc.StatusCode.ALREADY_EXISTS, "model_conflict")


def test_models_are_listed_by_page(stub: Any, server: Server) -> None:
    names = [f"grpc/page/{i}" for i in range(5)]
    for name in names:
        stub.CreateModel(pb.CreateModelRequest(spec=spec_message({"name": name, "seed": 1, "tensors": TENSORS})))
    after, seen = "grpc/page", []
    while len(seen) < 5:
        page = stub.ListModels(pb.ListModelsRequest(after=after, limit=2))
        assert len(page.models) <= 2
        seen += [model.name for model in page.models]
        after = page.next
    assert seen[:5] == names
    everything = stub.ListModels(pb.ListModelsRequest())
    over_rest = server.request("GET", "/v1/models").json()
    assert [model.digest for model in everything.models] == [model["digest"] for model in over_rest["models"]]
    assert everything.next == (over_rest["next"] or "")
    assert stub.ListModels(pb.ListModelsRequest(after="zzz")).next == ""
    long = failure_of(lambda: stub.ListModels(pb.ListModelsRequest(limit=1001)))
    assert (long.status, long.reason, long.fields) == (INVALID, "invalid_request", ["limit"])
    assert "max_page" in long.message


def changed(**fields: Any) -> pb.FabricateRequest:
    request = request_message(INLINE)
    request.MergeFrom(pb.FabricateRequest(**fields))
    return request


def tensors(*specs: dict[str, Any], **spec: Any) -> pb.FabricateRequest:
    return pb.FabricateRequest(spec=pb.ModelSpec(tensors=[tensor_message(t) for t in specs], **spec))


def vector(*values: float, batch: int = 0) -> dict[str, pb.Vector]:
    return {"b": pb.Vector(values=values, batch=batch)}


HUGE = {"name": "t", "shape": [2**63], "r": 2}
ONES = {"name": "t", "shape": [2], "kind": "constant", "value": "ones"}
WRONG: dict[str, tuple[pb.FabricateRequest, str, str]] = {
    "no source": (pb.FabricateRequest(), "invalid_request", "source"),
    "empty spec": (pb.FabricateRequest(spec=pb.ModelSpec()), "invalid_spec", "spec.tensors"),
    "bad name": (tensors(ONES, name="a//b"), "invalid_spec", "spec.name"),
    "too many elements": (tensors(ONES, HUGE), "invalid_spec", "spec.tensors[1].shape[0]"),
    "no rank": (tensors(ONES, ONES | {"name": "u"}, {"name": "v", "shape": [1], "r": 0}), "invalid_spec",
                "spec.tensors[2].r"),
    "scale that is no number": (tensors({"name": "v", "shape": [1], "scale": float("nan")}), "invalid_spec",
                                "spec.tensors[0].scale"),
    "constant without value": (tensors({"name": "t", "shape": [2], "kind": "constant"}), "invalid_spec",
                               "spec.tensors[0].value"),
    "constant of sevens": (tensors(ONES | {"value": "sevens"}), "invalid_spec", "spec.tensors[0].value"),
    "a name twice": (tensors(ONES, ONES), "invalid_spec", "spec.tensors"),
    "w in both forms": (changed(w_safetensors=W_FILE), "invalid_request", "w_safetensors"),
    "w file that is none": (pb.FabricateRequest(spec=spec_message(INLINE), w_safetensors=b"x" * 20),
                            "malformed_safetensors", "header length"),
    "options in the w file": (
        pb.FabricateRequest(model="m", w_safetensors=format_.write({OPTIONS_METADATA: "{}"}, {})), "invalid_request",
        "w_safetensors"),
    "no w": (pb.FabricateRequest(spec=spec_message(INLINE)), "w_missing", "w['t']"),
    "w too long": (changed(w=vector(1, 2, 3)), "w_wrong_length", "w['b']"),
    "w empty": (changed(w=vector()), "w_wrong_length", "w['b']"),
    "batch that does not divide": (changed(w=vector(1, 2, 3, batch=2)), "w_wrong_length", "w['b']"),
    "batch of nothing": (changed(w=vector(batch=2**32 - 1)), "w_wrong_length", "w['b']"),
    "w for nobody": (changed(w={"zz": pb.Vector(values=[1])}), "w_unexpected", "w['zz']"),
    "w for a constant": (changed(w={"one": pb.Vector(values=[1])}), "w_unexpected", "w['one']"),
    "w not finite": (changed(w=vector(1, float("inf"))), "w_not_finite", "w['b'][1]"),
    "unknown tensor": (changed(tensors=["t", "nope"]), "tensor_unknown", "tensors"),
    "unknown dtype": (changed(dtype=9), "dtype_unknown", "dtype"),
    "rows of nobody": (changed(rows={"nope": pb.Rows(last=1)}), "tensor_unknown", "rows"),
    "no rows": (changed(rows={"t": pb.Rows(first=3, last=3)}), "rows_out_of_range", "rows['t']"),
    "rows beyond": (changed(rows={"t": pb.Rows(last=2**64 - 1)}), "rows_out_of_range", "rows['t']"),
    "offset beyond": (changed(offset=2**64 - 1), "offset_out_of_range", "offset"),
    "length beyond": (changed(length=2**64 - 1), "offset_out_of_range", "length"),
}  # fmt: skip


@pytest.mark.parametrize(("request_", "reason", "field"), WRONG.values(), ids=WRONG.keys())
def test_a_wrong_request_is_told_what_is_wrong(stub: Any, request_: Any, reason: str, field: str) -> None:
    wrong = failure_of(lambda: list(stub.Fabricate(request_)))
    assert (wrong.status, wrong.reason, wrong.domain) == (INVALID, reason, "weightloom")
    assert field in wrong.fields
    assert wrong.message


@pytest.mark.parametrize("field", ["spec", "spec.name"])
def test_a_model_needs_a_spec_and_a_name(stub: Any, field: str) -> None:
    request = pb.CreateModelRequest(spec=tensors(ONES).spec if field == "spec.name" else None)
    wrong = failure_of(lambda: stub.CreateModel(request))
    assert (wrong.status, wrong.reason, wrong.fields) == (INVALID, "invalid_spec", [field])


METHODS = [method.name for method in pb.DESCRIPTOR.services_by_name["FabricationService"].methods]
UNKNOWN_FIELD = b"\xba\x3e\x01x"  # number 999


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("data", "reason"), [(b"\xff" * 9, "malformed_protobuf"), (UNKNOWN_FIELD, "invalid_request")])
def test_every_call_refuses_rubbish_and_fields_it_does_not_know(
    server: Server, method: str, data: bytes, reason: str
) -> None:
    with channel_to(server.grpc_target) as channel:
        wrong = failure_of(lambda: list(channel.unary_stream(f"/{SERVICE}/{method}")(data)))
    assert (wrong.status, wrong.reason, wrong.fields) == (INVALID, reason, ["message"])


def test_a_call_without_a_message_is_told(server: Server) -> None:
    with channel_to(server.grpc_target) as channel:
        wrong = failure_of(lambda: list(channel.stream_stream(f"/{SERVICE}/Fabricate")(iter(()))))
    assert (wrong.status, wrong.reason, wrong.fields) == (INVALID, "invalid_request", ["message"])


def test_an_unknown_field_deep_inside_is_refused_too(server: Server) -> None:
    tensor = tensor_message(ONES).SerializeToString() + UNKNOWN_FIELD
    spec = bytes([0x1A, len(tensor)]) + tensor
    with channel_to(server.grpc_target) as channel:
        wrong = failure_of(lambda: list(channel.unary_stream(f"/{SERVICE}/Fabricate")(bytes([0x12, len(spec)]) + spec)))
    assert (wrong.status, wrong.reason) == (INVALID, "invalid_request")


def test_what_a_message_says_may_be_long_and_strange(stub: Any) -> None:
    """Trailers are limited to 8 KiB: the details are cut, and the status still comes."""
    header = json.dumps({"\ud800" * 4000: {"dtype": "F9", "shape": [], "data_offsets": [0, 0]}}).encode()
    w_file = len(header).to_bytes(8, "little") + header
    many = [{"name": "ä" * 400 + str(i), "shape": [0]} for i in range(100)]
    for request in (pb.FabricateRequest(model="m", w_safetensors=w_file), tensors(*many, name="ö" * 10_000)):
        wrong = failure_of(lambda request=request: list(stub.Fabricate(request)))
        assert wrong.status == INVALID
        assert wrong.reason in ("malformed_safetensors", "invalid_spec")
        assert wrong.fields
    missing = failure_of(lambda: stub.GetModel(pb.GetModelRequest(name="語" * 100_000)))
    assert (missing.status, missing.reason) == (grpc.StatusCode.NOT_FOUND, "model_not_found")


def test_a_request_id_comes_back_with_the_reply_or_the_error(stub: Any) -> None:
    mine = (("x-request-id", "mine-1"),)
    stream = stub.Fabricate(request_message(INLINE), metadata=mine)
    list(stream)
    assert ("x-request-id", "mine-1") in stream.initial_metadata()
    _, unary = stub.ListModels.with_call(pb.ListModelsRequest(), metadata=mine)
    assert ("x-request-id", "mine-1") in unary.initial_metadata()
    wrong = failure_of(lambda: stub.GetModel(pb.GetModelRequest(name="nope"), metadata=mine))
    assert wrong.trailers["x-request-id"] == "mine-1"
    _, other = stub.ListModels.with_call(pb.ListModelsRequest())
    assert len(dict(other.initial_metadata())["x-request-id"]) > 8


def test_limits_are_those_of_rest(tmp_path: Path) -> None:
    limits = {"max_request_bytes": 1000, "max_output_bytes": 5000, "max_page": 7}
    with running_server(tmp_path / "data", **limits) as server, stub_of(server.grpc_target) as stub:
        for size in (2000, 200_000):
            long = failure_of(lambda size=size: stub.GetModel(pb.GetModelRequest(name="x" * size)))
            assert (long.status, long.reason) == (INVALID, "body_too_large")
            assert "max_request_bytes" in long.message
        unread = failure_of(lambda: stub.GetModel(pb.GetModelRequest(name="x" * (2 << 20))))
        assert unread.status == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "larger than max" in unread.message
        big = tensors({"name": "t", "shape": [100, 100], "kind": "constant", "value": "ones"})
        whole = failure_of(lambda: list(stub.Fabricate(big)))
        assert (whole.status, whole.reason) == (INVALID, "output_too_large")
        big.length = 5000
        assert len(data_of(stub.Fabricate(big))) == 5000
        assert failure_of(lambda: stub.ListModels(pb.ListModelsRequest(limit=8))).fields == ["limit"]
        assert stub.ListModels(pb.ListModelsRequest()).next == ""


def test_a_broken_registry_is_unavailable(tmp_path: Path) -> None:
    with running_server(tmp_path / "data") as server, stub_of(server.grpc_target) as stub:
        for file in (tmp_path / "data").iterdir():
            with file.open("r+b") as opened:  # not truncated: SQLite maps one of them, and would die by SIGBUS
                opened.write(b"rubbish" * 2000)
        broken = failure_of(lambda: stub.ListModels(pb.ListModelsRequest()))
        assert (broken.status, broken.reason) == (grpc.StatusCode.UNAVAILABLE, "registry_unavailable")
        assert "registry.sqlite3" in broken.message


def test_an_upload_that_trickles_is_not_waited_for(tmp_path: Path) -> None:
    def trickle(never: threading.Event) -> Iterator[pb.FactorsChunk]:
        yield pb.FactorsChunk(sha256="0" * 64)
        while not never.wait(0.1):
            yield pb.FactorsChunk(data=b"x")

    with running_server(tmp_path / "data", stall_seconds=0.5) as server, stub_of(server.grpc_target) as stub:
        never = threading.Event()
        try:
            failure = failure_of(lambda: stub.PutFactors(trickle(never), timeout=60))
        finally:
            never.set()
    assert (failure.status, failure.reason) == (grpc.StatusCode.DEADLINE_EXCEEDED, "sender_stalled")
    assert "1024 bytes a second" in failure.message


UNARY = ("CreateModel", "GetModel", "ListModels", "DeleteModel", "SetResidency", "GetFactors")


def test_a_request_that_does_not_come_is_not_waited_for(tmp_path: Path) -> None:
    with running_server(tmp_path / "data", stall_seconds=0.3) as server, channel_to(server.grpc_target) as channel:
        for method in (*UNARY, "PutFactors", "Fabricate"):
            never = threading.Event()
            call = channel.stream_stream(f"/weightloom.v1.FabricationService/{method}")(silence(never), timeout=60)
            try:
                failure = failure_of(lambda call=call: list(call))
            finally:
                never.set()
            assert (failure.status, failure.reason) == (grpc.StatusCode.DEADLINE_EXCEEDED, "sender_stalled"), method
