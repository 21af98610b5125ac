"""Between the messages of the contract and what the engine speaks. Pure functions; all protobuf mapping is here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from google.protobuf.message import DecodeError
from weightloom_proto.v1 import fabrication_pb2 as pb

from weightloom.engine import Fabrication, Residency, ResidencyStatus
from weightloom.errors import InvalidInput, InvalidSelection, InvalidSpec, InvalidW, MalformedBody, Violation
from weightloom.fabric import DType, ModelSpec, safetensors
from weightloom.fabric.kinds import BaseTensorSpec, RandomMatrixHypernet
from weightloom.fabric.kinds.base import MAX_DIMENSIONS
from weightloom.registry import ModelSummary, describe
from weightloom.requests import INLINE_NAME, OPTIONS_METADATA, FabricateRequest

__all__ = [
    "chunks",
    "fabricate_request",
    "factors_chunk",
    "factors_reply",
    "factors_to_get",
    "first_fields",
    "list_models_reply",
    "list_models_request",
    "model_reply",
    "model_to_create",
    "name_to_delete",
    "name_to_get",
    "residency_request",
]

CHUNK_BYTES = 1 << 20  # of data in a chunk: well within the 4 MiB that clients take where nobody tells them otherwise
DATA_FIELD = pb.FabricateChunk.DESCRIPTOR.fields_by_name["data"].number << 3 | 2  # its tag on the wire
DTYPES: dict[int, DType] = {
    pb.DTYPE_UNSPECIFIED: DType.F32,
    pb.DTYPE_F32: DType.F32,
    pb.DTYPE_F16: DType.F16,
    pb.DTYPE_BF16: DType.BF16,
}
RESIDENCIES: dict[Residency, pb.Residency] = {
    Residency.VIRTUAL: pb.RESIDENCY_VIRTUAL,
    Residency.RESIDENT: pb.RESIDENCY_RESIDENT,
    Residency.AUTO: pb.RESIDENCY_AUTO,
}
DEFAULT_KIND = RandomMatrixHypernet.model_fields["kind"].default
DEFAULT_PAGE = 100

M = TypeVar("M")
Array = npt.NDArray[Any]


def _parse(kind: Callable[[], M], data: bytes) -> M:
    """A message, none of whose fields (at any depth) is unknown: left out, they would silently change what is made."""
    message: Any = kind()
    try:
        message.ParseFromString(data)
    except DecodeError as error:
        raise MalformedBody.at("message", error, message.DESCRIPTOR.full_name, code="malformed_protobuf") from error
    size = message.ByteSize()
    message.DiscardUnknownFields()
    if unknown := size - message.ByteSize():
        expected = f"only fields of {message.DESCRIPTOR.full_name} that this server knows"
        raise InvalidInput.at("message", f"{unknown} bytes of unknown fields", expected)
    parsed: M = message
    return parsed


def _serialized(message: Any) -> bytes:
    data: bytes = message.SerializeToString()
    return data


def fabricate_request(data: bytes) -> tuple[FabricateRequest, str]:
    """What to make, and the condition ``if_match`` ("" for none). Raises InvalidInput."""
    message = _parse(pb.FabricateRequest, data)
    request = FabricateRequest(
        _source(message),
        _w(message),
        dtype=_dtype(message.dtype),
        tensors=list(message.tensors) or None,
        rows={name: (rows.first, rows.last) for name, rows in message.rows.items()},
        offset=message.offset,
        length=message.length if message.HasField("length") else None,
    )
    return request, message.if_match


def _source(message: pb.FabricateRequest) -> str | ModelSpec:
    source = message.WhichOneof("source")
    if source == "spec":
        return _spec(message.spec, message.spec.name or INLINE_NAME)
    if source != "model":
        raise InvalidInput.at("source", "nothing", "either 'model' or 'spec'")
    return message.model


def _w(message: pb.FabricateRequest) -> Mapping[str, Array]:
    if not message.w_safetensors:
        return {name: _vector(name, vector) for name, vector in message.w.items()}
    if message.w:
        raise InvalidInput.at("w_safetensors", "a file beside 'w'", "either 'w' or 'w_safetensors'")
    w, metadata = safetensors.parse(message.w_safetensors)
    if OPTIONS_METADATA in metadata:
        got = f"options in its metadata under {OPTIONS_METADATA!r}"
        raise InvalidInput.at("w_safetensors", got, "none: they are fields of the message")
    return w


def _vector(name: str, vector: pb.Vector) -> Array:
    """A w of shape (l,), or (batch, l)."""
    values: Array = np.array(vector.values, np.float32)
    if not vector.batch:
        return values
    length, rest = divmod(values.size, vector.batch)
    if rest:
        expected = f"a multiple of its batch of {vector.batch}"
        raise InvalidW.at(f"w[{name!r}]", f"{values.size} values", expected, code="w_wrong_length")
    return values.reshape(vector.batch, length)


def _dtype(number: int) -> DType:
    if number not in DTYPES:
        raise InvalidSelection.at("dtype", number, "one of " + ", ".join(pb.DType.keys()), code="dtype_unknown")
    return DTYPES[number]


def model_to_create(data: bytes) -> ModelSpec:
    """The spec of a CreateModelRequest. Raises InvalidInput."""
    message = _parse(pb.CreateModelRequest, data)
    if not message.HasField("spec"):
        raise InvalidSpec.at("spec", "nothing", "a ModelSpec")
    return _spec(message.spec, message.spec.name)


def _spec(message: pb.ModelSpec, name: str) -> ModelSpec:
    """Through the same classes as a JSON spec, so that the same rules hold and fields have the same names."""
    value = {"name": name, "seed": message.seed, "tensors": [_tensor(tensor) for tensor in message.tensors]}
    try:
        return ModelSpec.from_value(value)
    except InvalidSpec as error:
        violations = [Violation(f"spec.{each.field}", each.got, each.expected) for each in error.violations]
        raise InvalidSpec("; ".join(map(str, violations[:3])), violations=violations) from error


def _tensor(message: pb.TensorSpec) -> dict[str, Any]:
    """As JSON has it. Only parameters that were set are there: defaults are the kinds' own."""
    kind = message.WhichOneof("kind") or DEFAULT_KIND
    parameters = {field.name: value for field, value in getattr(message, kind).ListFields()}
    return {"name": message.name, "shape": list(message.shape[: MAX_DIMENSIONS + 1]), "kind": kind} | parameters


def name_to_get(data: bytes) -> str:
    """The name or digest of a GetModelRequest. Raises InvalidInput."""
    return _parse(pb.GetModelRequest, data).name


def name_to_delete(data: bytes) -> str:
    """The name or digest of a DeleteModelRequest. Raises InvalidInput."""
    return _parse(pb.DeleteModelRequest, data).name


def factors_chunk(data: bytes) -> tuple[str, bytes]:
    """The digest ("" but on the first one) and the bytes of a FactorsChunk. Raises InvalidInput."""
    message = _parse(pb.FactorsChunk, data)
    return message.sha256, message.data


def factors_to_get(data: bytes) -> str:
    """The digest of a GetFactorsRequest. Raises InvalidInput."""
    return _parse(pb.GetFactorsRequest, data).sha256


def factors_reply(digest: str, size: int) -> bytes:
    """A Factors message."""
    return _serialized(pb.Factors(sha256=digest, size=size))


def list_models_request(data: bytes, max_page: int) -> tuple[str, int]:
    """After which name, and how many (0: 100, or ``max_page`` where that is less). Raises InvalidInput."""
    message = _parse(pb.ListModelsRequest, data)
    if message.limit > max_page:
        raise InvalidInput.at("limit", message.limit, f"at most {max_page} (setting max_page)")
    return message.after, message.limit or min(DEFAULT_PAGE, max_page)


def list_models_reply(found: list[ModelSummary], limit: int) -> bytes:
    """A page of ``limit`` models; one more may have been found, which says that there is a next page."""
    models = [
        pb.ModelSummary(
            name=summary.name,
            digest=summary.digest,
            tensors=summary.tensors,
            numel=str(summary.numel),
            w_numbers=str(summary.w_numbers),
            created_at=summary.created_at,
        )
        for summary in found[:limit]
    ]
    following = models[-1].name if len(found) > limit else ""
    return _serialized(pb.ListModelsResponse(models=models, next=following))


def residency_request(data: bytes) -> tuple[str, Residency | None]:
    """The name or digest of a SetResidencyRequest, and what is wanted. Raises InvalidInput."""
    message = _parse(pb.SetResidencyRequest, data)
    if message.residency not in pb.Residency.values():
        raise InvalidInput.at("residency", message.residency, "one of " + ", ".join(pb.Residency.keys()))
    return message.name, next((kind for kind, number in RESIDENCIES.items() if number == message.residency), None)


def model_reply(summary: ModelSummary, spec: ModelSpec, status: ResidencyStatus) -> bytes:
    """A Model message."""
    known = describe(summary, spec)
    tensors = [_tensor_message(tensor) for tensor in spec.tensors]
    model = pb.Model(
        spec=pb.ModelSpec(name=spec.name, seed=spec.seed, tensors=tensors),
        digest=summary.digest,
        generator=known["generator"],
        created_at=summary.created_at,
        description=known["description"],
        numel=str(summary.numel),
        w_numbers=str(summary.w_numbers),
        residency=RESIDENCIES[status.residency],
        resident_bytes=status.resident_bytes,
        t_bytes=str(status.t_bytes),
    )
    return _serialized(model)


def _tensor_message(tensor: BaseTensorSpec) -> pb.TensorSpec:
    kind = {tensor.kind: tensor.model_dump(exclude={"name", "shape", "kind"})}
    return pb.TensorSpec(name=tensor.name, shape=tensor.shape, **kind)


def first_fields(fabrication: Fabrication) -> bytes:
    """What only the first chunk has, as it is written before the chunk's data."""
    file = fabrication.file
    return _serialized(pb.FabricateChunk(total_size=file.size, etag=file.etag, model_digest=file.model.digest))


def chunks(tile: memoryview, first: bytes = b"") -> Iterator[bytes]:
    """A tile as serialized FabricateChunks, one at least, behind the fields that the first one has.

    Written by hand, because a message object would copy the data once more.
    """
    for start in range(0, max(1, len(tile)), CHUNK_BYTES):
        data = tile[start : start + CHUNK_BYTES]
        yield b"".join((first, bytes([DATA_FIELD]), _varint(len(data)), data))
        first = b""


def _varint(number: int) -> bytes:
    """Seven bits to a byte, the lowest first; the top bit says that more follow."""
    groups = bytearray()
    while number > 0x7F:
        groups.append(number & 0x7F | 0x80)
        number >>= 7
    groups.append(number)
    return bytes(groups)
