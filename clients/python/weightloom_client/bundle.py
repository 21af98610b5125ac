"""A bundle: a model's spec and its w's in one small safetensors file, all that an edge device must keep.

The file is also a request as it is: POST it to /fabricate as application/octet-stream, and the weights come back.
"""

from __future__ import annotations

import json
import mmap
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from weightloom.errors import InvalidInput, InvalidSpec, InvalidW, MalformedBody, WeightloomError
from weightloom.fabric import ModelSpec as FabricSpec
from weightloom.fabric import safetensors
from weightloom.fabric.vectors import as_float32, check_missing, check_shapes

from weightloom_client.arrays import float32_of
from weightloom_client.model_spec import ModelSpec

__all__ = ["Bundle"]

SPEC, DIGEST = "weightloom.spec", "weightloom.digest"
RESERVED = "weightloom."


@dataclass(frozen=True, eq=False)
class Bundle:
    """A spec, a w for each of its tensors that takes one, and strings of your own (``metadata``).

    w: anything that numpy or torch can turn into numbers, of shape (l,) or, for a batch, (B, l); kept as read-only
    float32 copies in the spec's order. Bundles are equal where their bytes are. Raises InvalidW where a w is missing,
    of the wrong shape or not finite, InvalidInput for metadata that is not text or whose key begins with "weightloom.".
    """

    spec: FabricSpec
    w: Mapping[str, npt.NDArray[np.float32]]
    metadata: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        given = {name: float32_of(f"w[{name!r}]", value) for name, value in self.w.items()}
        check_shapes(self.spec, given)
        check_missing(given, self.spec.tensors)
        as_float32(given)  # only for its check that all numbers are finite
        for array in given.values():
            array.flags.writeable = False
        _check_metadata(self.metadata)
        object.__setattr__(self, "w", {t.name: given[t.name] for t in self.spec.tensors if t.name in given})
        object.__setattr__(self, "metadata", {key: self.metadata[key] for key in sorted(self.metadata)})

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Bundle) and self.to_bytes() == other.to_bytes()

    def __hash__(self) -> int:
        return hash(self.to_bytes())

    def to_bytes(self) -> bytes:
        """The file: equal bundles give equal bytes."""
        spec = json.dumps(self.spec.model_dump(mode="json"), separators=(",", ":"))
        metadata = {SPEC: spec, DIGEST: self.spec.digest, **self.metadata}
        return safetensors.write(metadata, {name: w.astype("<f4", copy=False) for name, w in self.w.items()})

    @classmethod
    def from_bytes(cls, body: bytes | memoryview) -> Bundle:
        """Read a whole file, strictly.

        Raises MalformedBody where it is truncated, no safetensors file or no bundle, InvalidSpec where its spec is
        wrong or not the one of its digest, InvalidW where its w's do not fit the spec.
        """
        entries, metadata = safetensors.layout(body)
        spec = _spec_of(metadata)
        for entry in entries.values():
            if entry.dtype != "F32":
                raise InvalidW.at(f"w[{entry.name!r}].dtype", entry.dtype, "F32", code="w_wrong_dtype")
        w = {name: safetensors.tensor(entry, body) for name, entry in entries.items()}
        return cls(spec, w, {key: text for key, text in metadata.items() if key not in (SPEC, DIGEST)})

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the file so that it is there whole or not at all; an older one is replaced. Raises OSError."""
        target = Path(path).resolve()  # a link stays a link
        beside = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
        try:
            with beside.open("xb") as file:
                file.write(self.to_bytes())
                file.flush()
                os.fsync(file.fileno())
            beside.replace(target)
        finally:
            beside.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Bundle:
        """The bundle at ``path``, checked as in ``from_bytes``; errors carry the path as a note. Raises OSError too.

        The file is mapped, so that a large one that is no bundle is refused without being read.
        """
        with Path(path).open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            body = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if size else b"")
        try:
            return cls.from_bytes(body)
        except WeightloomError as error:
            error.add_note(f"while reading {os.fspath(path)}")
            raise


def _spec_of(metadata: Mapping[str, str]) -> FabricSpec:
    for key in (SPEC, DIGEST):
        if key not in metadata:
            expected = "a bundle's text under this key: this safetensors file is no bundle"
            raise MalformedBody.at(f"metadata[{key!r}]", "nothing", expected, code="malformed_safetensors")
    spec = ModelSpec.parse(metadata[SPEC])
    if spec.digest != metadata[DIGEST]:
        expected = f"{spec.digest}, the digest of the spec in this file"
        raise InvalidSpec.at(f"metadata[{DIGEST!r}]", metadata[DIGEST], expected)
    return spec


def _check_metadata(metadata: Mapping[Any, Any]) -> None:
    for key, text in metadata.items():
        if not (_is_text(key) and _is_text(text)):
            raise InvalidInput.at(f"metadata[{key!r}]", repr(text), "text under a key that is text")
        if key.startswith(RESERVED):
            raise InvalidInput.at(f"metadata[{key!r}]", "this key", f"keys that do not begin with {RESERVED!r}")


def _is_text(value: object) -> bool:
    return isinstance(value, str) and not any(0xD800 <= ord(c) <= 0xDFFF for c in value)
