"""From a request to a file: everything is checked here, and what many requests share is found once.

Requests that differ only in the numbers of their w's share a *plan*. For a small tensor that is most of the work.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass

from weightloom.engine.limits import EngineLimits
from weightloom.errors import LimitExceeded
from weightloom.fabric import Backend, ModelSpec, VirtualFile
from weightloom.fabric.cache import BoundedCache
from weightloom.fabric.factors import KeptFactors
from weightloom.fabric.layout import FileLayout, lay_out
from weightloom.registry import ModelSummary, Registry
from weightloom.requests import FabricateRequest

__all__ = ["Plan", "Planner"]

# Below this a request is made on the event loop itself: some 50 microseconds, less than handing it to a thread costs.
SMALL_BYTES, SMALL_WORK = 1 << 16, 1 << 15
# From here on, planning itself takes milliseconds and goes to a thread.
LARGE_PLAN_TENSORS, LARGE_PLAN_NUMBERS = 64, 1 << 16
KEPT_BYTES = 64 << 20  # of plans, with what they hold

KeptFor = Callable[[ModelSpec, ModelSummary | None], KeptFactors]


@dataclass(frozen=True, slots=True)
class Plan:
    """A layout, and the bytes ``start`` … ``stop - 1`` of it that are wanted."""

    layout: FileLayout
    start: int
    stop: int
    is_small: bool
    form_bytes: int


class Planner:
    """``kept_for`` says where a model's factors may be found kept."""

    def __init__(self, registry: Registry, backend: Backend, limits: EngineLimits, kept_for: KeptFor) -> None:
        self._registry, self._backend, self._limits, self._kept_for = registry, backend, limits, kept_for
        self._plans: BoundedCache[tuple[Hashable, str], Plan] = BoundedCache(
            KEPT_BYTES, lambda plan: plan.layout.weight + plan.form_bytes
        )

    def known(self, request: FabricateRequest) -> ModelSpec | ModelSummary | None:
        """The inline spec, or the registered model's summary; None where only ``find`` can tell, in a thread."""
        return request.model if isinstance(request.model, ModelSpec) else self._registry.known(request.model)

    def find(self, request: FabricateRequest) -> ModelSpec | ModelSummary:
        """As ``known``, but it may wait for the registry. Raises NotFound, Unavailable."""
        return request.model if isinstance(request.model, ModelSpec) else self._registry.find(request.model)

    def is_large(self, request: FabricateRequest, model: ModelSpec | ModelSummary) -> bool:
        """Whether ``plan`` takes so long that it should not run on the event loop."""
        tensors = len(model.tensors) if isinstance(model, ModelSpec) else model.tensors
        return tensors > LARGE_PLAN_TENSORS or sum(w.size for w in request.w.values()) > LARGE_PLAN_NUMBERS

    def plan(self, request: FabricateRequest, model: ModelSpec | ModelSummary) -> tuple[VirtualFile, Plan]:
        """The file and what is wanted of it. Raises InvalidInput, LimitExceeded, NotFound, Unavailable."""
        key = request.form, model.digest
        plan = self._plans.get(key)
        if plan is None:
            plan = self._lay_out(request, model if isinstance(model, ModelSpec) else self._registry.load(model))
            self._plans.put(key, plan)
        kept = self._kept_for(plan.layout.model, None if isinstance(model, ModelSpec) else model)
        file = VirtualFile.laid_out(plan.layout, request.w, self._backend, kept)
        file.etag  # noqa: B018  (kept; computed here, where a large w does not hold up the event loop)
        return file, plan

    def _lay_out(self, request: FabricateRequest, spec: ModelSpec) -> Plan:
        layout = lay_out(spec, request.w, request.dtype, request.tensors, request.rows)
        length = request.length if request.length is not None else max(0, layout.size - request.offset)
        layout.check_range(request.offset, length)
        if length > self._limits.max_output_bytes:
            expected = f"at most {self._limits.max_output_bytes} (setting max_output_bytes); ask for part of it"
            raise LimitExceeded.at("output bytes", length, expected, code="output_too_large")
        is_small = length <= SMALL_BYTES and layout.work <= SMALL_WORK
        return Plan(layout, request.offset, request.offset + length, is_small, request.form_bytes)
