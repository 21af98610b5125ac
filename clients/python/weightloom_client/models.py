"""What a client asks of a server's registry: models, what becomes of their T's, and imported factors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from weightloom_client.errors import ModelNotFound, ServerFailed
from weightloom_client.factors import AnyBlob, FactorBlob
from weightloom_client.protocol import Broken
from weightloom_client.replicas import Replicas
from weightloom_client.transports import Transport

if TYPE_CHECKING:
    from weightloom.fabric import ModelSpec

__all__ = ["ModelCalls"]

RESIDENCIES = ("virtual", "resident", "auto")
DERIVED = frozenset({"numel", "w_length", "degrees_of_freedom"})  # what the server shows of a tensor beside its spec


class ModelCalls:
    """The part of ``Client`` that moves no weights."""

    _replicas: Replicas

    def create_model(self, spec: ModelSpec | Mapping[str, Any] | bytes | str) -> dict[str, Any]:
        """Register a model, as REST shows it then; the very same one again is no error. Raises ModelConflict."""
        value = _spec_value(spec)
        return self._replicas.call(lambda transport: transport.create_model(value))

    def get_model(self, name: str) -> dict[str, Any]:
        """A model by name or digest. Raises ModelNotFound."""
        return self._replicas.call(lambda transport: transport.get_model(name))

    def get_spec(self, name: str) -> ModelSpec:
        """The spec of a model by name or digest. Raises ModelNotFound."""
        return _spec_of(self.get_model(name))

    def list_models(self) -> Iterator[dict[str, Any]]:
        """All registered models by name, page by page."""
        after, more = "", True
        while more:
            models, after = self._replicas.call(partial(_page, after))
            yield from models
            more = bool(after)

    def delete_model(self, name: str) -> None:
        """Forget a model. Raises ModelNotFound, though not where a try whose answer was lost may have done it."""
        self._replicas.call(partial(_delete, name, list[Exception]()))

    def set_residency(self, name: str, residency: str | None) -> dict[str, Any]:
        """Keep a model's T in memory ("resident"), never ("virtual"), or as it goes ("auto"); None: as the server does.

        Raises ModelNotFound, and ValueError for another word.
        """
        if residency not in (*RESIDENCIES, None):
            raise ValueError(f"residency: got {residency!r}, expected None or one of {', '.join(RESIDENCIES)}")
        return self._replicas.call(lambda transport: transport.set_residency(name, residency))

    def put_factors(self, blob: AnyBlob) -> str:
        """Upload imported factors unless they are there already; returns their digest, for a spec's factors_sha256.

        blob: P, Q, S and T end to end, float32 and row-major, as bytes, the path of a file, or a list of arrays. What
        no model refers to may be removed after a day.
        """
        source = FactorBlob.of(blob)
        self._replicas.call(lambda transport: _put_factors(transport, source))
        return source.digest


def _put_factors(transport: Transport, blob: FactorBlob) -> None:
    if not transport.has_factors(blob):
        transport.put_factors(blob)


def _delete(name: str, lost: list[Exception], transport: Transport) -> None:
    """``lost``: tries of the same call that failed, of which any may have done it."""
    try:
        transport.delete_model(name)
    except (Broken, ServerFailed) as error:
        if not isinstance(error, Broken) or error.is_sent:
            lost.append(error)
        raise
    except ModelNotFound:
        if not lost:
            raise


def _page(after: str, transport: Transport) -> tuple[list[dict[str, Any]], str]:
    return transport.list_models(after)


def _spec_value(spec: ModelSpec | Mapping[str, Any] | bytes | str) -> Mapping[str, Any]:
    from weightloom.fabric import ModelSpec

    if isinstance(spec, bytes | str):
        spec = ModelSpec.parse(spec)
    return spec.model_dump(mode="json") if isinstance(spec, ModelSpec) else spec


def _spec_of(model: Mapping[str, Any]) -> ModelSpec:
    from weightloom_client.model_spec import ModelSpec

    tensors = [{key: tensor[key] for key in tensor.keys() - DERIVED} for tensor in model["tensors"]]
    return ModelSpec.from_value({"name": model["name"], "seed": model["seed"], "tensors": tensors})
