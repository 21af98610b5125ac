"""From tinyBIG: a model whose frozen factors are in memory or in a pickle becomes one that is served unchanged."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from weightloom.errors import InvalidInput
from weightloom.fabric.spec import ModelSpec

from weightloom_client.arrays import float32_of
from weightloom_client.bundle import Bundle
from weightloom_client.client import Client
from weightloom_client.factors import FactorBlob
from weightloom_client.torch.tinybig.factors import Hypernet
from weightloom_client.torch.tinybig.objects import HYPERNET, Found, Use, found_in
from weightloom_client.torch.tinybig.pickles import read_pickle

__all__ = ["Imported", "import_tinybig"]


@dataclass(frozen=True, eq=False)
class Imported:
    """bundle: spec and w's. blobs: the factors that the spec refers to, each once, in the order of its tensors."""

    bundle: Bundle
    blobs: tuple[FactorBlob, ...]

    def publish(self, client: Client) -> dict[str, Any]:
        """Upload what of the factors is not there yet, and register the model; again is no error.

        Returns the model as ``Client.create_model`` does, and raises what it raises.
        """
        for blob in self.blobs:
            client.put_factors(blob)
        return client.create_model(self.bundle.spec)


def import_tinybig(
    source: object,
    name: str,
    *,
    w: Any = None,
    shape: Sequence[int] | None = None,
    metadata: Mapping[str, str] | None = None,
) -> Imported:
    """The model called ``name`` that makes the weights of a tinyBIG object from its own P, Q, S, T and w.

    source: a tinyBIG model, layer or head, or a bare random_matrix_hypernet_reconciliation, which takes ``w`` (l,) or
    (channels, l) and W's ``shape`` (n, D); or the path or bytes of such an object's pickle, by pickle.dump or
    torch.save. A pickle is read without tinyBIG, and no code in it runs. There must have been a forward.

    Tensors have the names of the state_dict. A head's w becomes W: (n, D), or (channels, n, D) where it has several
    channels, of kind imported_hypernet; all other floating-point parameters and buffers are of kind identity. A bare
    function's W is called "w". Data transformations are not weights and do not come along.

    Raises InvalidInput (which InvalidFactors, InvalidW and InvalidSpec are too) naming the field: factors that are
    missing, no float32, not finite or of the wrong shape, pickles that name anything but tinyBIG's classes and tensors;
    OSError where the file cannot be read.
    """
    if isinstance(source, str | os.PathLike):
        source = Path(source)
    if isinstance(source, bytes | Path):
        source = read_pickle(source)
    if type(source).__name__ == HYPERNET:
        return _imported(name, [_bare(source, w, shape)], metadata or {})
    for field, value in (("w", w), ("shape", shape)):
        if value is not None:
            raise InvalidInput.at(field, "a value", f"none: only a bare {HYPERNET} takes it, heads have their own")
    return _imported(name, [*found_in(source)], metadata or {})


def _bare(function: Any, w: Any, shape: Sequence[int] | None) -> Found:
    """A function without a head."""
    if w is None:
        raise InvalidInput.at("w", "nothing", "(l,) or (channels, l): a function has no w of its own")
    if shape is None or len(shape) != 2:
        raise InvalidInput.at("shape", "nothing" if shape is None else shape, "(n, D), those of the forward")
    n, D = shape
    return Found("w", w, Use(function, "", n, D, D=D))


def _imported(name: str, found: Sequence[Found], metadata: Mapping[str, str]) -> Imported:
    hypernets = _hypernets([entry.use for entry in found if entry.use is not None])
    tensors, w, blobs = [], {}, dict[str, FactorBlob]()
    for entry in found:
        values = float32_of(f"w[{entry.name!r}]", entry.value)
        if entry.use is None:
            tensors.append({"name": entry.name, "shape": values.shape, "kind": "identity"})
            w[entry.name] = values.reshape(-1)
            continue
        hypernet = hypernets[id(entry.use.function)]
        tensors.append({"name": entry.name, "shape": entry.use.shape(hypernet), **hypernet.fields})
        w[entry.name] = values[0] if values.ndim == 2 and len(values) == 1 else values  # a W of no channels
        blobs.setdefault(hypernet.blob.digest, hypernet.blob)
    spec = ModelSpec.from_value({"name": name, "seed": 0, "tensors": tensors})
    return Imported(Bundle(spec, w, metadata), tuple(blobs.values()))


def _hypernets(uses: Sequence[Use]) -> dict[int, Hypernet]:
    """By the ids of their functions, which heads may share. Raises InvalidInput where there are none."""
    if not uses:
        raise InvalidInput.at("source", "nothing to import", f"a head with {HYPERNET}; model_spec is for other modules")
    hypernets, first = dict[int, Hypernet](), dict[int, Use]()
    for use in uses:
        other = first.setdefault(id(use.function), use)
        if (other.n, other.m) != (use.n, use.m):
            got = f"a function that is also {other.path}, of another size"
            raise InvalidInput.at(
                use.path, got, "one of its own: tinyBIG draws the factors anew each time the size changes"
            )
        if other is use:
            hypernets[id(use.function)] = Hypernet.of(use.function, use.path)
    return hypernets
