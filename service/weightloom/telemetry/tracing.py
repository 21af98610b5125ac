"""One OpenTelemetry span for each call, made when it has ended: nothing is paid while it runs.

The SDK's own variables configure it: OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_TRACES_SAMPLER, OTEL_SERVICE_NAME and so on.
Spans go out by OTLP over gRPC. Times in queue, compute and send are attributes, not child spans: they are sums over
many tiles that overlap, and have no place on a time line.
"""

from __future__ import annotations

import time

from weightloom.engine import Call
from weightloom.errors import Unavailable

try:
    from opentelemetry.context import Context
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
    from opentelemetry.trace import SpanKind, Status, StatusCode
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
except ImportError as error:
    raise Unavailable(
        f"tracing needs OpenTelemetry: pip install 'weightloom[otel]' ({error})", code="missing_extra"
    ) from error

__all__ = ["Tracing"]

OURS = frozenset({"internal", "registry_unavailable", "wrong_bits"})  # the other codes are the client's doing, or load


class Tracing:
    """Turns calls that ended into spans; close it, so that none is lost."""

    def __init__(self, exporter: SpanExporter | None = None) -> None:
        self._provider = TracerProvider(resource=_resource())
        self._provider.add_span_processor(BatchSpanProcessor(exporter or OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("weightloom")
        self._propagator = TraceContextTextMapPropagator()

    def call_ended(self, call: Call) -> None:
        """Make the call's span, beneath the client's where it sent a W3C traceparent."""
        end = time.time_ns()
        span = self._tracer.start_span(
            f"weightloom.{call.name}",
            self._propagator.extract({"traceparent": call.traceparent}, Context()),
            SpanKind.SERVER,
            _attributes(call),
            start_time=end - round(call.seconds * 1e9),
        )
        if call.code in OURS:
            span.set_status(Status(StatusCode.ERROR, call.code))
        span.end(end)

    def close(self) -> None:
        """Send what waits to be sent."""
        self._provider.shutdown()


def _attributes(call: Call) -> dict[str, str | int | float]:
    return {
        "weightloom.front": call.front,
        "weightloom.model": call.model,
        "weightloom.code": call.code,
        "weightloom.request_id": call.request_id,
        "weightloom.sent_bytes": call.sent_bytes,
        "weightloom.queue_seconds": call.queue,
        "weightloom.compute_seconds": call.compute,
        "weightloom.send_seconds": call.send,
    }


def _resource() -> Resource:
    """What the environment says, and our name where it says none."""
    found = Resource.create()
    if str(found.attributes["service.name"]).startswith("unknown_service"):
        found = found.merge(Resource({"service.name": "weightloom"}))
    return found
