"""A span for each ended call."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind
from weightloom.engine import Call
from weightloom.errors import NotFound, WeightloomError
from weightloom.telemetry.tracing import Tracing

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def spans_of(*work: Callable[[Tracing], None]) -> list[ReadableSpan]:
    exporter = InMemorySpanExporter()
    tracing = Tracing(exporter)
    for step in work:
        step(tracing)
    tracing.close()
    return list(exporter.get_finished_spans())


def call(traceparent: str = "", error: WeightloomError | None = None) -> Callable[[Tracing], None]:
    def make(tracing: Tracing) -> None:
        with Call(tracing.call_ended, "grpc", "fabricate", "mine", traceparent=traceparent) as call:
            call.model, call.sent_bytes, call.queue, call.compute, call.send = "demo/mlp", 4096, 0.5, 0.25, 0.125
            if error:
                call.failed(error)

    return make


def test_a_span_has_the_times_the_parent_and_the_facts_of_its_call() -> None:
    before = time.time_ns()
    (span,) = spans_of(call(PARENT))
    assert span.name == "weightloom.fabricate"
    assert span.kind is SpanKind.SERVER
    assert span.context is not None
    assert span.parent is not None
    assert f"{span.context.trace_id:032x}-{span.parent.span_id:016x}" == "-".join(PARENT.split("-")[1:3])
    assert span.parent.is_remote
    assert span.start_time is not None
    assert span.end_time is not None
    assert before - 1e9 < span.start_time < span.end_time <= time.time_ns()
    assert span.attributes == {
        "weightloom.front": "grpc",
        "weightloom.model": "demo/mlp",
        "weightloom.code": "ok",
        "weightloom.request_id": "mine",
        "weightloom.sent_bytes": 4096,
        "weightloom.queue_seconds": 0.5,
        "weightloom.compute_seconds": 0.25,
        "weightloom.send_seconds": 0.125,
    }
    assert span.resource.attributes["service.name"] == "weightloom"
    assert span.status.is_unset


@pytest.mark.parametrize("traceparent", ["", "nonsense", PARENT[:-3], "ff" + PARENT[2:]])
def test_without_a_valid_parent_a_trace_begins_here(traceparent: str) -> None:
    (span,) = spans_of(call(traceparent))
    assert span.parent is None


def test_only_our_own_failures_are_errors() -> None:
    theirs, ours = spans_of(call(error=NotFound("no")), call(error=WeightloomError("broken")))
    assert theirs.attributes is not None
    assert (theirs.attributes["weightloom.code"], theirs.status.is_unset) == ("model_not_found", True)
    assert (ours.status.is_ok, ours.status.description) == (False, "internal")


def test_the_standard_variables_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_SERVICE_NAME", "looms")
    assert [span.resource.attributes["service.name"] for span in spans_of(call())] == ["looms"]
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_always_off")
    assert len(spans_of(call(), call(PARENT))) == 1


WITHOUT_OTEL = """
import sys
sys.modules["opentelemetry.sdk"] = None  # as where it is not installed; the API comes with FastAPI
from weightloom.cli import main
sys.argv = ["weightloom", *sys.argv[1:]]
main()
"""


def test_tracing_without_its_packages_is_told_at_the_start() -> None:
    command = [sys.executable, "-c", WITHOUT_OTEL, "serve", "--port", "0", "--grpc-port", "0", "--tracing"]
    told = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert told.returncode == 1
    assert "pip install 'weightloom[otel]'" in " ".join(told.stderr.split())


def test_nobody_needs_the_packages_without_tracing() -> None:
    program = "import sys, weightloom.main; print('opentelemetry.sdk' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
