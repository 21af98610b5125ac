"""The models that rows name: from spec files, and from wherever else a name can be looked up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from weightloom.errors import InvalidInput, NotFound, WeightloomError
from weightloom.fabric import ModelSpec

__all__ = ["Model", "Models"]

ITEM_BYTES = 4
KEPT_MODELS = 256


@dataclass(frozen=True)
class Model:
    """A spec as JSON, and about how many bytes its files have."""

    key: str
    spec: bytes
    file_bytes: int


class Models:
    """given: specs, known by name and by digest. look_up: what finds others; it raises what it raises."""

    def __init__(self, given: list[ModelSpec], look_up: Callable[[str], ModelSpec] | None = None) -> None:
        self.default = given[0].name if len(given) == 1 else None
        self._look_up, self._given = look_up, dict[str, Model]()
        self._found = dict[str, Model | WeightloomError]()
        for spec in given:
            if spec.name in self._given:
                raise InvalidInput.at("--model", f"two specs called {spec.name!r}", "one of each name")
            self._given[spec.name] = self._given[spec.digest] = _model_of(spec)

    def get(self, name: str) -> Model:
        """The model of a name or digest; asked for once, mostly. Raises NotFound and what the look-up raises."""
        found = self._given.get(name) or self._found.get(name)
        if found is None:
            found = self._asked_for(name)
            if len(self._found) >= KEPT_MODELS:
                self._found.pop(next(iter(self._found)))
            self._found[name] = found
        if isinstance(found, WeightloomError):
            raise found
        return found

    def _asked_for(self, name: str) -> Model | WeightloomError:
        if self._look_up is None:
            return NotFound(f"no --model gives a spec called {name!r}")
        try:
            return _model_of(self._look_up(name))
        except WeightloomError as error:
            return error


def _model_of(spec: ModelSpec) -> Model:
    size = ITEM_BYTES * sum(tensor.numel for tensor in spec.tensors)
    return Model(spec.digest, spec.model_dump_json().encode(), size)
