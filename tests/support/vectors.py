"""The known answers of the numeric contract, from tests/vectors.json."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from weightloom.fabric import ModelSpec

VECTORS: dict[str, list[dict[str, Any]]] = json.loads((Path(__file__).parents[1] / "vectors.json").read_text())


def floats(bits: list[str]) -> npt.NDArray[np.float32]:
    """float32 from hexadecimal bit patterns."""
    return np.array([int(word, 16) for word in bits], np.uint32).view(np.float32)


def bits(values: npt.NDArray[np.float32]) -> list[str]:
    """The inverse of ``floats``."""
    return [f"{word:08x}" for word in values.view(np.uint32)]


@dataclass(frozen=True)
class KnownFile:
    """A "fabricate" vector: a model of one tensor, its w, and the hashes of some of its elements."""

    entry: dict[str, Any]

    @property
    def model(self) -> dict[str, Any]:
        """The spec, as JSON has it."""
        fields = {key: self.entry[key] for key in ("shape", "l", "r", "hidden_dim", "scale")}
        return {"name": "known", "seed": self.entry["seed"], "tensors": [{"name": self.tensor, **fields}]}

    @property
    def tensor(self) -> str:
        """The tensor's name."""
        return str(self.entry["tensor"])

    @property
    def w(self) -> npt.NDArray[np.float32]:
        """w (l,)."""
        return floats(self.entry["w_bits"])

    @property
    def spec(self) -> ModelSpec:
        """The spec."""
        return ModelSpec.from_value(self.model)

    def elements(self, data: bytes, itemsize: int) -> bytes:
        """The bytes whose hash is known, out of those of the whole tensor."""
        first, last = self.entry["elements"]
        return data[first * itemsize : last * itemsize]


KNOWN_FILES = [KnownFile(entry) for entry in VECTORS["fabricate"]]
KNOWN_IDS = [f"{i}-{known.tensor}" for i, known in enumerate(KNOWN_FILES)]
