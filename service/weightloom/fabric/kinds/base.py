"""The interface behind which every kind of fabrication lives.

A kind is one file here: a spec class (its parameters and their rules, in pydantic) whose ``weaver`` turns a w into
something that can fill any range of elements. To add a kind, write that file and list its class in ``__init__``.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Annotated

import numpy as np
import numpy.typing as npt
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from weightloom.fabric.backend import Backend
from weightloom.fabric.bounds import few_fields
from weightloom.fabric.factors import Factors, KeptFactors
from weightloom.fabric.imported import Blob
from weightloom.fabric.passes import Weaver

__all__ = ["MAX_DIMENSIONS", "MAX_NAME_LENGTH", "MAX_NUMEL", "BaseTensorSpec"]

MAX_NUMEL = 1 << 48
MAX_DIMENSIONS = 32
MAX_NAME_LENGTH = 512

F32 = npt.NDArray[np.float32]


def _tensor_name(name: str) -> str:
    if name == "__metadata__":
        raise ValueError("another name: '__metadata__' is reserved by the safetensors format")
    if any(ord(c) < 0x20 or 0xD800 <= ord(c) <= 0xDFFF for c in name):
        raise ValueError("a name without control characters and lone surrogates")
    return name


def _numel_in_limit(shape: tuple[int, ...]) -> tuple[int, ...]:
    if math.prod(shape) > MAX_NUMEL:
        raise ValueError(f"a product of dimensions of at most 2^48 (it is {math.prod(shape)})")
    return shape


Dimension = Annotated[int, Field(ge=1, le=MAX_NUMEL, strict=True)]
TensorName = Annotated[str, Field(min_length=1, max_length=MAX_NAME_LENGTH), AfterValidator(_tensor_name)]
Shape = Annotated[
    tuple[Dimension, ...], Field(max_length=MAX_DIMENSIONS, fail_fast=True), AfterValidator(_numel_in_limit)
]


class BaseTensorSpec(BaseModel, ABC):
    """What every tensor spec has: a ``name``, a ``shape`` (n, …) and a ``kind``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: TensorName = Field(description="Name of the tensor, as in a state_dict. It is part of what decides its bits.")
    shape: Shape = Field(description="Dimensions (n, …), each at least 1; the product is at most 2^48.")
    kind: str

    _few_fields = model_validator(mode="before")(few_fields)

    @property
    def numel(self) -> int:
        """Number of elements of one W."""
        return math.prod(self.shape)

    @property
    @abstractmethod
    def w_length(self) -> int | None:
        """Length l of this tensor's w, or None where the kind takes no w."""

    @property
    @abstractmethod
    def degrees_of_freedom(self) -> int:
        """Dimension of the set of W's that some w can reach."""

    @property
    def draws_per_element(self) -> int:
        """Normal numbers to draw for one element: the measure of work by which tiles are cut."""
        return 0

    @property
    def draws_to_prepare(self) -> int:
        """Normal numbers to draw before the first element."""
        return 0

    @property
    def blob(self) -> Blob | None:
        """The imported factors that the tensor needs, or None where it needs none."""
        return None

    def factors(self, seed: int) -> Factors | None:
        """The frozen factors under a model's ``seed``, or None where the kind has none."""
        return None

    @abstractmethod
    def weaver(self, factors: Factors | None, w: F32, backend: Backend, kept: KeptFactors) -> Weaver:
        """Make ready for a ``w`` (B, l); kinds without w get one of shape (1, 0)."""
