"""gRPC clients of a real server: stubs, messages from JSON specs, and what an error says."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from grpc_status import rpc_status
from weightloom_proto.v1 import fabrication_pb2 as pb
from weightloom_proto.v1 import fabrication_pb2_grpc


@contextmanager
def channel_to(target: str, **options: int) -> Iterator[grpc.Channel]:
    """A connection of its own; options are channel arguments whose dots are written as two underscores."""
    named = [(name.replace("__", "."), value) for name, value in options.items()]
    with grpc.insecure_channel(target, options=[*named, ("grpc.use_local_subchannel_pool", 1)]) as channel:
        yield channel


@contextmanager
def stub_of(target: str, **options: int) -> Iterator[Any]:
    """The generated client, as users have it."""
    with channel_to(target, **options) as channel:
        yield fabrication_pb2_grpc.FabricationServiceStub(channel)


def silence(over: threading.Event) -> Iterator[bytes]:
    """The messages of a client that sends none, and does not say that there will be none until ``over`` is set."""
    over.wait()
    yield from ()


def spec_message(spec: Mapping[str, Any]) -> pb.ModelSpec:
    """A JSON spec as its message."""
    return pb.ModelSpec(
        name=spec.get("name", ""), seed=int(spec["seed"]), tensors=[tensor_message(t) for t in spec["tensors"]]
    )


def tensor_message(tensor: Mapping[str, Any]) -> pb.TensorSpec:
    """A JSON tensor spec as its message."""
    parameters = {key: value for key, value in tensor.items() if key not in ("name", "shape", "kind")}
    kind = {tensor.get("kind", "random_matrix_hypernet"): parameters}
    return pb.TensorSpec(name=tensor["name"], shape=tensor["shape"], **kind)


def request_message(request: Mapping[str, Any], **fields: Any) -> pb.FabricateRequest:
    """An inline JSON request (seed, tensors, w) as its message, with more fields."""
    w = {name: pb.Vector(values=values) for name, values in request["w"].items()}
    return pb.FabricateRequest(spec=spec_message(request), w=w, **fields)


def data_of(chunks: Iterator[pb.FabricateChunk]) -> bytes:
    """The bytes of a whole stream."""
    return b"".join(chunk.data for chunk in chunks)


@dataclass(frozen=True)
class Failure:
    """How a call failed: status, message, stable code, fields that are wrong, seconds to wait, the call's id."""

    status: grpc.StatusCode
    message: str
    reason: str
    domain: str
    fields: list[str]
    retry_after: int | None
    trailers: dict[str, str | bytes]


def failure_of(call: Callable[[], Any]) -> Failure:
    """The failure of a call that must fail."""
    try:
        result = call()
    except grpc.RpcError as error:
        return read_failure(error)
    raise AssertionError(f"the call did not fail but gave {result!r}")


def read_failure(error: Any) -> Failure:
    """The parts of an RpcError."""
    rich = rpc_status.from_call(error)
    details: list[AnyMessage] = list(rich.details) if rich else []
    info, bad, retry = (_unpacked(details, kind) for kind in (ErrorInfo, BadRequest, RetryInfo))
    return Failure(
        error.code(),
        error.details(),
        info.reason,
        info.domain,
        [violation.field for violation in bad.field_violations],
        retry.retry_delay.seconds if retry.HasField("retry_delay") else None,
        dict(error.trailing_metadata()),
    )


def _unpacked(details: list[AnyMessage], kind: Callable[[], Any]) -> Any:
    message = kind()
    for detail in details:
        if detail.Is(message.DESCRIPTOR):
            detail.Unpack(message)
    return message
