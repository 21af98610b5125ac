"""A server with tracing on sends its spans to an OTLP collector."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from support.server import running_server

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Collector(trace_service_pb2_grpc.TraceServiceServicer):  # type: ignore[misc]
    """Keeps what it is sent."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self._lock = threading.Lock()

    def Export(self, request: Any, context: Any) -> Any:  # noqa: N802
        with self._lock:
            self.spans += [span for r in request.resource_spans for s in r.scope_spans for span in s.spans]
        return trace_service_pb2.ExportTraceServiceResponse()


@contextmanager
def collecting(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    collector, server = Collector(), grpc.server(ThreadPoolExecutor(1))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(collector, server)
    port = server.add_insecure_port("127.0.0.1:0")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{port}")
    server.start()
    try:
        yield collector
    finally:
        server.stop(None).wait()


def test_every_call_is_a_span_beneath_the_client_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    constant = {"seed": 1, "tensors": [{"name": "t", "shape": [4], "kind": "constant", "value": "ones"}]}
    with collecting(monkeypatch) as collector, running_server(tmp_path / "data", tracing=True) as server:
        server.post_json("/fabricate", constant, traceparent=PARENT, x_request_id="first")
        server.request("GET", "/v1/models/none", traceparent=PARENT, x_request_id="second")
        server.request("GET", "/healthz", traceparent=PARENT)
        assert server.stop() == 0, "what was not sent yet is sent at the end"
        spans = {span.name: span for span in collector.spans}
    assert set(spans) == {"weightloom.fabricate", "weightloom.get_model"}
    for span in spans.values():
        assert (span.trace_id.hex(), span.parent_span_id.hex()) == tuple(PARENT.split("-")[1:3])
    facts = {f.key: f.value for f in spans["weightloom.get_model"].attributes}
    assert facts["weightloom.code"].string_value == "model_not_found"
    assert facts["weightloom.request_id"].string_value == "second"
