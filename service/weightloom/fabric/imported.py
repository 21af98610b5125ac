"""Factors that are given and not drawn: which blob of numbers a tensor needs, and what it means.

A blob is the float32 numbers (little-endian, row-major) of P (l, r), Q and S (hidden_dim, r) and T (numel, r), end to
end. It is known by the SHA-256 of its bytes and kept once, by whoever keeps factors (``KeptFactors.imported``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from weightloom.errors import InvalidSpec, WeightloomError

if TYPE_CHECKING:
    from weightloom.fabric.factors import Factors, KeptFactors, ResidentT

__all__ = ["ITEM_BYTES", "MAX_NUMBER", "Blob", "WithImported", "factors_missing"]

ITEM_BYTES = 4
MAX_NUMBER = float(1 << 20)  # of a blob, in magnitude: far beyond what is drawn, and W stays finite at any useful scale

F32 = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Blob:
    """digest: SHA-256 of the bytes, 64 hexadecimal digits. count: how many numbers the blob must have."""

    digest: str
    count: int

    @property
    def size(self) -> int:
        """Bytes."""
        return ITEM_BYTES * self.count


class WithImported:
    """``kept`` with the blobs that a file needs, found when it was laid out: so they are there until it is made.

    needed: the tensors' places in the model, and their blobs. Raises InvalidSpec for the first one that is missing.
    """

    def __init__(self, kept: KeptFactors, needed: Iterable[tuple[int, Blob]]) -> None:
        self._kept, found = kept, dict[Blob, F32]()
        for place, blob in needed:
            values = found.get(blob)
            if values is None:
                values = kept.imported(blob)
            if values is None:
                raise factors_missing(place, blob)
            found[blob] = values
        self._found: Mapping[Blob, F32] = found

    def expect(self, factors: Factors) -> None:
        """See ``KeptFactors``."""
        self._kept.expect(factors)

    def t(self, factors: Factors) -> ResidentT | None:
        """See ``KeptFactors``."""
        return self._kept.t(factors)

    def pqs(self, factors: Factors) -> tuple[F32, F32, F32] | None:
        """See ``KeptFactors``."""
        return self._kept.pqs(factors)

    def imported(self, blob: Blob) -> F32 | None:
        """See ``KeptFactors``."""
        return self._found.get(blob)


def factors_missing(place: int, blob: Blob) -> WeightloomError:
    """The blob of the tensor at ``place`` of a model is not here, or of another size."""
    expected = f"the digest of factors that were uploaded, {blob.size} bytes of them"
    return InvalidSpec.at(f"tensors[{place}].factors_sha256", blob.digest, expected, code="factors_missing")
