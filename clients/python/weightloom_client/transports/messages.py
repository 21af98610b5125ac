"""Between the messages of the gRPC contract and what the client speaks. Pure functions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from weightloom.fabric import ModelSpec, safetensors
from weightloom.registry import ModelSummary, describe
from weightloom_proto.v1 import fabrication_pb2 as pb

from weightloom_client.factors import FactorBlob
from weightloom_client.protocol import Part, Wanted

__all__ = [
    "fabricate_request",
    "factors_chunks",
    "model",
    "residency_request",
    "spec_message",
    "summary",
    "violation",
]

COUNTS = ("numel", "w_numbers")  # decimal text in messages, since they may be beyond 64 bits


def fabricate_request(wanted: Wanted, part: Part) -> pb.FabricateRequest:
    """The w's go as a safetensors file: they need no conversion on either side."""
    request = pb.FabricateRequest(
        w_safetensors=safetensors.write({}, wanted.w),
        dtype=f"DTYPE_{wanted.request.dtype}",
        tensors=list(wanted.tensors or ()),
        rows={name: pb.Rows(first=first, last=last) for name, (first, last) in (wanted.rows or {}).items()},
        offset=part.offset,
        length=part.length,
        if_match=part.etag,
    )
    if isinstance(wanted.model, str):
        request.model = wanted.model
    else:
        request.spec.CopyFrom(spec_message(wanted.model.model_dump(mode="json")))
    return request


def spec_message(spec: Mapping[str, Any]) -> pb.ModelSpec:
    """A spec as JSON has it. Raises weightloom.errors.InvalidSpec where it breaks a rule."""
    checked = ModelSpec.from_value(dict(spec))
    tensors = [
        pb.TensorSpec(
            name=tensor.name, shape=tensor.shape, **{tensor.kind: tensor.model_dump(exclude={"name", "shape", "kind"})}
        )
        for tensor in checked.tensors
    ]
    return pb.ModelSpec(name=checked.name, seed=checked.seed, tensors=tensors)


def model(message: pb.Model) -> dict[str, Any]:
    """A model as REST shows it."""
    tensors = []
    for tensor in message.spec.tensors:
        kind = tensor.WhichOneof("kind")
        parameters = {field.name: value for field, value in getattr(tensor, kind).ListFields()}
        tensors.append({"name": tensor.name, "shape": list(tensor.shape), "kind": kind} | parameters)
    spec = ModelSpec.from_value({"name": message.spec.name, "seed": message.spec.seed, "tensors": tensors})
    counts = int(message.numel), int(message.w_numbers)
    known = ModelSummary(spec.name, message.digest, len(tensors), *counts, message.created_at)
    return describe(known, spec) | {
        "residency": pb.Residency.Name(message.residency).removeprefix("RESIDENCY_").lower(),
        "resident_bytes": message.resident_bytes,
        "t_bytes": int(message.t_bytes),
    }


def summary(message: pb.ModelSummary) -> dict[str, Any]:
    """A line of a list, as REST shows it."""
    fields = {name: getattr(message, name) for name in ("name", "digest", "tensors", "created_at")}
    return fields | {key: int(getattr(message, key)) for key in COUNTS}


def residency_request(name: str, residency: str | None) -> pb.SetResidencyRequest:
    """None is "whatever the server's setting says". Raises ValueError for a residency that does not exist."""
    return pb.SetResidencyRequest(name=name, residency=f"RESIDENCY_{(residency or 'unspecified').upper()}")


def factors_chunks(blob: FactorBlob) -> Iterator[pb.FactorsChunk]:
    """An upload; the first chunk is there though the blob may be empty, and says what comes."""
    yield pb.FactorsChunk(sha256=blob.digest)
    for part in blob.parts():
        yield pb.FactorsChunk(data=part)


def violation(field: str, description: str) -> dict[str, str]:
    """A field that is wrong, as REST says it: its description is "got …, expected …"."""
    got, _, expected = description.removeprefix("got ").rpartition(", expected ")
    return {"field": field, "got": got, "expected": expected}
