"""Messages of the gRPC contract with hostile values, made from its descriptors, and bytes that are nearly one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fuzz.examples import MODEL
from fuzz.strategies import TEXTS, mutated, safetensors_bodies
from google.protobuf import message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor, ServiceDescriptor
from hypothesis import strategies as st
from support.rpc import spec_message
from weightloom_proto.v1 import fabrication_pb2 as pb

__all__ = ["METHODS", "SERVICE", "calls"]

SERVICE: ServiceDescriptor = pb.DESCRIPTOR.services_by_name["FabricationService"]
METHODS = tuple(SERVICE.methods)
KNOWN = ("demo/mlp", "t", "zeros", "inline")  # the first one is registered
texts = st.sampled_from(KNOWN) | st.sampled_from([text for text in TEXTS if text != "\ud800"]) | st.text(max_size=4)


SPEC = spec_message(MODEL)
W = {"t": pb.Vector(values=[0.5] * 4), "b": pb.Vector(values=[1.0] * 4)}
RIGHT = (
    pb.FabricateRequest(model="demo/mlp", w=W),
    pb.FabricateRequest(model="demo/mlp", w=W, rows={"t": pb.Rows(first=1, last=3)}, dtype="DTYPE_F16"),
    pb.FabricateRequest(spec=SPEC, w=W),
    pb.CreateModelRequest(spec=SPEC),
    pb.GetModelRequest(name="demo/mlp"),
    pb.SetResidencyRequest(name="demo/mlp", residency="RESIDENCY_AUTO"),
)


def _integers(bits: int, signed: bool) -> st.SearchStrategy[int]:
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
    return st.sampled_from((0, 1, 2, 4, high, low)) | st.integers(max(low, -2), 40) | st.integers(low, high)


SCALARS: dict[int, st.SearchStrategy[Any]] = {
    FieldDescriptor.CPPTYPE_INT32: _integers(32, signed=True),
    FieldDescriptor.CPPTYPE_UINT32: _integers(32, signed=False),
    FieldDescriptor.CPPTYPE_INT64: _integers(64, signed=True),
    FieldDescriptor.CPPTYPE_UINT64: _integers(64, signed=False),
    FieldDescriptor.CPPTYPE_ENUM: st.integers(-1, 5) | _integers(32, signed=True),  # any number is one, in proto3
    FieldDescriptor.CPPTYPE_FLOAT: st.floats(width=32),
    FieldDescriptor.CPPTYPE_DOUBLE: st.floats(),
    FieldDescriptor.CPPTYPE_BOOL: st.booleans(),
}


def messages(kind: Descriptor) -> st.SearchStrategy[Any]:
    """A message with any of its fields; of fields that exclude each other the last one stays."""
    new = message_factory.GetMessageClass(kind)
    fields = {field.name: _field(field) for field in kind.fields}
    return st.fixed_dictionaries({}, optional=fields).map(lambda values: new(**values))


def _field(field: FieldDescriptor) -> st.SearchStrategy[Any]:
    kind = field.message_type
    if kind is not None and kind.GetOptions().map_entry:
        return st.dictionaries(_one(kind.fields_by_name["key"]), _one(kind.fields_by_name["value"]), max_size=3)
    return st.lists(_one(field), max_size=4) if field.is_repeated else _one(field)


def _one(field: FieldDescriptor) -> st.SearchStrategy[Any]:
    if field.message_type is not None:
        return st.deferred(lambda: messages(field.message_type))
    if field.type == FieldDescriptor.TYPE_BYTES:
        return st.binary(max_size=8) | safetensors_bodies()
    return texts if field.type == FieldDescriptor.TYPE_STRING else SCALARS[field.cpp_type]


def calls() -> st.SearchStrategy[tuple[str, list[bytes]]]:
    """A method, and the bytes of the messages that it is sent: one, but for a stream."""
    return st.sampled_from(METHODS).flatmap(lambda method: st.tuples(st.just(method.name), _sent(method)))


def _sent(method: Any) -> st.SearchStrategy[list[bytes]]:
    right = [message for message in RIGHT if message.DESCRIPTOR.full_name == method.input_type.full_name]
    nearly = [_few_fields(method.input_type).map(_beside(message)) for message in right]
    data = st.one_of(*nearly, messages(method.input_type)).map(lambda message: message.SerializeToString())
    one = st.binary(max_size=40) | data | data | data.flatmap(mutated)
    return st.lists(one, max_size=4) if method.client_streaming else one.map(lambda data: [data])


def _few_fields(kind: Descriptor) -> st.SearchStrategy[Any]:
    new = message_factory.GetMessageClass(kind)
    one = st.sampled_from(list(kind.fields)).flatmap(lambda field: st.tuples(st.just(field.name), _field(field)))
    return st.lists(one, max_size=2).map(lambda pairs: new(**dict(pairs)))


def _beside(message: Any) -> Callable[[Any], Any]:
    """Puts what another message has into a copy of this one: added where a field is repeated, else instead of it."""

    def merged(more: Any) -> Any:
        result = type(message)()
        result.CopyFrom(message)
        result.MergeFrom(more)
        return result

    return merged
