"""Calls over gRPC that are wrong, each with the one code that must come back; and the calls about models."""

from __future__ import annotations

from typing import Any

import grpc
import grpc.aio
from soak.ledger import OK
from soak.menu import KEPT, VOLATILE
from soak.rpc_visits import channel_to, failed, stub_to
from soak.visitor import BUSY, ID, RETRY, Visitor
from support.rpc import spec_message
from weightloom_proto.v1 import fabrication_pb2 as pb

__all__ = ["RPC_KEEPER_VISITS", "RPC_NONSENSE_VISITS", "RPC_WRONG"]

METHOD = "/weightloom.v1.FabricationService/Fabricate"
MIB = 1 << 20
NAME = KEPT[0].name
W = {"t": pb.Vector(values=[0.5] * 8), "bias": pb.Vector(values=[0.0] * 32)}
UNREAD = grpc.StatusCode.RESOURCE_EXHAUSTED


def _fabricate(**fields: Any) -> bytes:
    data: bytes = pb.FabricateRequest(**({"model": NAME, "w": W} | fields)).SerializeToString()
    return data


def _inline(**tensor: Any) -> pb.ModelSpec:
    return pb.ModelSpec(seed=1, tensors=[pb.TensorSpec(**({"name": "t", "shape": [4]} | tensor))])


RPC_WRONG: tuple[tuple[str, bytes], ...] = (
    ("malformed_protobuf", b"\xff\xff\xff"),
    ("invalid_request", b""),
    ("invalid_request", _fabricate() + b"\xf8\x3f\x01"),
    ("invalid_request", _fabricate(w_safetensors=b"x")),
    ("malformed_safetensors", _fabricate(w={}, w_safetensors=b"\x10\x00")),
    ("model_not_found", _fabricate(model="soak/none")),
    ("w_missing", _fabricate(w={})),
    ("w_unexpected", _fabricate(w=W | {"other": pb.Vector(values=[1.0])})),
    ("w_wrong_length", _fabricate(w=W | {"t": pb.Vector(values=[1.0] * 9)})),
    ("w_wrong_length", _fabricate(w=W | {"t": pb.Vector(values=[1.0] * 8, batch=3)})),
    ("w_not_finite", _fabricate(w=W | {"t": pb.Vector(values=[float("nan")] * 8)})),
    ("tensor_unknown", _fabricate(tensors=["other"])),
    ("dtype_unknown", _fabricate(dtype=9)),
    ("rows_out_of_range", _fabricate(rows={"t": pb.Rows(first=3, last=3)})),
    ("offset_out_of_range", _fabricate(offset=1 << 40)),
    ("etag_mismatch", _fabricate(if_match='"another"')),
    ("invalid_spec", _fabricate(spec=_inline(shape=[0]))),
    ("output_too_large", _fabricate(spec=_inline(shape=[1 << 20, 64], constant=pb.Constant(value="ones")), w={})),
    ("body_too_large", _fabricate(w_safetensors=bytes(MIB + MIB // 2))),
)


async def rpc_nonsense(visitor: Visitor) -> None:
    """Every wrong message once, in any order, and one that is too long to be read."""
    async with channel_to(visitor) as channel:
        fabricate = channel.unary_stream(METHOD)
        for code, data in visitor.rng.sample(RPC_WRONG, len(RPC_WRONG)):
            await _expect(visitor, fabricate, code, data)
        request_id = visitor.new_id()
        try:
            await _drain(fabricate(bytes(3 * MIB), metadata=((ID, request_id),)))
            visitor.fail(request_id, "a message beyond every limit was taken")
        except grpc.aio.AioRpcError as error:
            if error.code() is not UNREAD:
                visitor.fail(request_id, f"{error}, expected {UNREAD}")
            visitor.ended("", UNREAD.name)


async def _expect(visitor: Visitor, fabricate: Any, code: str, data: bytes) -> None:
    request_id = visitor.new_id()
    try:
        await _drain(fabricate(data, metadata=((ID, request_id),)))
        visitor.fail(request_id, f"it was made, expected {code}")
    except grpc.aio.AioRpcError as error:
        found = await failed(visitor, request_id, error)
        if found not in (code, *RETRY, "sender_stalled"):  # the last where neither side had time
            visitor.fail(request_id, f"{found}, expected {code}")


async def _drain(call: Any) -> None:
    async for _ in call:
        pass


async def rpc_keep(visitor: Visitor) -> None:
    """Register a model, look at it, list some, say what is kept of it, and now and then delete it."""
    model = visitor.rng.choice(VOLATILE)
    spec = spec_message(model.spec.model_dump(mode="json"))
    async with stub_to(visitor) as stub:
        made = await _ask(visitor, stub.CreateModel, pb.CreateModelRequest(spec=spec))
        if made is not None and made.digest != model.spec.digest:
            visitor.fail(model.name, f"registered as {made}")
        await _ask(visitor, stub.GetModel, pb.GetModelRequest(name=model.name), "model_not_found")
        await _ask(visitor, stub.ListModels, pb.ListModelsRequest(limit=3))
        residency = visitor.rng.choice([pb.RESIDENCY_RESIDENT, pb.RESIDENCY_AUTO, pb.RESIDENCY_VIRTUAL])
        wanted = pb.SetResidencyRequest(name=model.name, residency=residency)
        await _ask(visitor, stub.SetResidency, wanted, "model_not_found")
        if visitor.rng.random() < 0.5:
            await _ask(visitor, stub.DeleteModel, pb.DeleteModelRequest(name=model.name), "model_not_found")


async def _ask(visitor: Visitor, method: Any, request: Any, *or_codes: str) -> Any:
    """The reply; an error must be one of ``or_codes``."""
    request_id = visitor.new_id()
    try:
        reply = await method(request, metadata=((ID, request_id),))
    except grpc.aio.AioRpcError as error:
        code = await failed(visitor, request_id, error)
        if code not in (*or_codes, BUSY):
            visitor.fail(request_id, f"{code} to {request!r:.300}")
        return None
    visitor.ended(request_id, OK)
    return reply


RPC_NONSENSE_VISITS = {rpc_nonsense: 1}
RPC_KEEPER_VISITS = {rpc_keep: 2}
