"""JSON replies about models, for the OpenAPI document."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from weightloom.engine import Residency
from weightloom.registry import ModelSummary

__all__ = ["ModelPage", "ModelReply"]


class ModelReply(BaseModel):
    """A registered model."""

    name: str
    digest: str = Field(description="SHA-256 of the canonical JSON: equal digests mean equal bits for ever.")
    generator: str
    seed: str
    created_at: str
    description: str = Field(description="Sizes, and where W has fewer degrees of freedom than w has numbers.")
    numel: int = Field(description="Elements of all tensors.")
    w_numbers: int = Field(description="Numbers in all w's.")
    data_bytes: dict[str, int] = Field(description="By dtype, the file's size without its header.")
    residency: Residency = Field(description="What may become of T; the server's setting where nobody has said it.")
    resident_bytes: int = Field(description="Memory that T takes now, in the process that answers.")
    t_bytes: int = Field(description="Memory that T takes where all of it is resident.")
    tensors: list[dict[str, Any]] = Field(description="The specs, each with numel, w_length and degrees_of_freedom.")


class ResidencyRequest(BaseModel):
    """What is to become of a model's T."""

    model_config = ConfigDict(extra="forbid")

    residency: Residency | None = Field(description="null: whatever the server's setting says.")


class ModelPage(BaseModel):
    """One page of models by name."""

    models: list[ModelSummary]
    next: str | None = Field(description="Pass it as `after` to get the next page; null on the last one.")
