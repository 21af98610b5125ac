"""Puts together the observer that the settings describe."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager

from weightloom.engine import Call, Observer
from weightloom.settings import Settings
from weightloom.telemetry.access import log_call
from weightloom.telemetry.counting import PrometheusObserver

__all__ = ["observing"]


@contextmanager
def observing(settings: Settings, more_codes: Iterable[str] = ()) -> Iterator[Observer]:
    """The observer for an engine that is closed within this context; all it knows is written out at the end.

    more_codes: outcome codes of the fronts that are not in errors.py. Raises Unavailable where tracing is on and its
    packages are not installed.
    """
    with ExitStack() as stack:
        listeners: list[Callable[[Call], None]] = []
        if settings.tracing:
            from weightloom.telemetry.tracing import Tracing

            listeners.append(stack.enter_context(closing(Tracing())).call_ended)
        if settings.access_log:
            listeners.append(log_call)
        yield stack.enter_context(closing(PrometheusObserver(more_codes, listeners)))
