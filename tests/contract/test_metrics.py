"""GET /metrics of a real server: every outcome is counted, under few labels."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator

import pytest
from support.metrics import Sample, scrape, value
from support.server import Server, running_server, wait_until
from support.streams import BareClient, bulk
from weightloom.telemetry.counting import CALLS, FRONTS, OTHER
from weightloom.telemetry.metrics import METRICS

SPEC = {"name": "metrics/one", "seed": 1, "tensors": [{"name": "t", "shape": [4, 4], "l": 4}]}
INLINE = {"seed": 1, "tensors": SPEC["tensors"], "w": {"t": [1, 2, 3, 4]}}


@pytest.fixture(scope="module")
def counted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of its own, so that nobody else moves its counters."""
    with running_server(tmp_path_factory.mktemp("counted") / "data", max_request_bytes=10_000) as server:
        assert server.post_json("/v1/models", SPEC).status == 201
        yield server


def ended(samples: dict[Sample, float], call: str, code: str) -> float:
    return value(samples, "requests_total", front="rest", call=call, code=code)


FABRICATE: list[tuple[str, bytes, dict[str, str]]] = [
    ("ok", json.dumps(INLINE).encode(), {}),
    ("ok", json.dumps(INLINE).encode(), {"if_none_match": "*"}),
    ("malformed_json", b"{", {}),
    ("malformed_safetensors", b"{", {"content_type": "application/octet-stream"}),
    ("unsupported_media_type", b"{", {"content_type": "text/csv"}),
    ("invalid_request", json.dumps(INLINE | {"speed": 1}).encode(), {}),
    ("invalid_spec", json.dumps(INLINE | {"seed": -1}).encode(), {}),
    ("w_missing", json.dumps(INLINE | {"w": {}}).encode(), {}),
    ("tensor_unknown", json.dumps(INLINE | {"rows": {"x": [0, 1]}}).encode(), {}),
    ("offset_out_of_range", json.dumps(INLINE | {"offset": 10**6}).encode(), {}),
    ("etag_mismatch", json.dumps(INLINE).encode(), {"if_match": '"another"'}),
    ("model_not_found", b'{"model": "metrics/none", "w": {}}', {}),
    ("body_too_large", b" " * 20_000, {}),
]


@pytest.mark.parametrize(
    ("code", "body", "headers"), FABRICATE, ids=[f"{i}-{c}" for i, (c, *_) in enumerate(FABRICATE)]
)
def test_every_outcome_of_fabricate_is_counted(
    counted: Server, code: str, body: bytes, headers: dict[str, str]
) -> None:
    before = scrape(counted)
    reply = counted.request("POST", "/fabricate", body, **headers)
    after = scrape(counted)
    assert reply.status < 400 or reply.json()["code"] == code, reply.data
    assert ended(after, "fabricate", code) == ended(before, "fabricate", code) + 1
    changed = {
        sample for sample in after if sample[0] == "weightloom_requests_total" and after[sample] != before.get(sample)
    }
    assert len(changed) == 1, "and under no other code"


OTHERS = [
    ("POST", "/v1/models", json.dumps(SPEC).encode(), "create_model", "ok"),
    ("POST", "/v1/models", json.dumps(SPEC | {"seed": 2}).encode(), "create_model", "model_conflict"),
    ("POST", "/v1/models", b"{}", "create_model", "invalid_spec"),
    ("GET", "/v1/models", None, "list_models", "ok"),
    ("GET", "/v1/models?limit=0", None, "list_models", "invalid_request"),
    ("GET", "/v1/models/metrics/one", None, "get_model", "ok"),
    ("HEAD", "/v1/models/metrics/one", None, "get_model", "ok"),
    ("GET", "/v1/models/metrics/none", None, "get_model", "model_not_found"),
    ("DELETE", "/v1/models/metrics/none", None, "delete_model", "model_not_found"),
    ("PUT", "/v1/models", None, "other", "method_not_allowed"),
    ("GET", "/fabricate", None, "fabricate", "method_not_allowed"),
    ("GET", "/nothing/here", None, "other", "route_not_found"),
]


@pytest.mark.parametrize(("method", "path", "body", "call", "code"), OTHERS)
def test_other_calls_are_counted_and_timed(
    counted: Server, method: str, path: str, body: bytes | None, call: str, code: str
) -> None:
    before = scrape(counted)
    counted.request(method, path, body)
    after = scrape(counted)
    assert ended(after, call, code) == ended(before, call, code) + 1
    timed = [value(samples, "request_seconds_count", front="rest", call=call) for samples in (before, after)]
    assert timed[1] == timed[0] + 1


def test_health_information_and_pages_are_no_calls(counted: Server) -> None:
    before = scrape(counted)
    for path in ("/healthz", "/readyz", "/v1/info", "/metrics", "/", "/docs", "/openapi.json"):
        assert counted.request("GET", path).status == 200
    after = scrape(counted)
    assert [s for s in after if s[0] == "weightloom_requests_total" and after[s] != before.get(s)] == []


def test_a_stream_that_its_reader_leaves_is_counted_as_cancelled(counted: Server) -> None:
    before = ended(scrape(counted), "fabricate", "cancelled")
    with BareClient(counted.url, bulk(1 << 18)) as client:
        next(client.read())
    wait_until(lambda: ended(scrape(counted), "fabricate", "cancelled") == before + 1)


def test_bytes_and_elements_are_counted(counted: Server) -> None:
    before = scrape(counted)
    size = len(counted.post_json("/fabricate", INLINE).data)
    after = scrape(counted)
    sent = [value(samples, "sent_bytes_total", front="rest") for samples in (before, after)]
    made = [value(samples, "elements_total") for samples in (before, after)]
    assert sent[1] - sent[0] == size
    assert made[1] - made[0] == 16
    for name in ("queue", "compute", "send"):
        assert value(after, f"{name}_seconds_count") == value(before, f"{name}_seconds_count") + 1


def test_every_documented_metric_is_there_and_no_other(counted: Server) -> None:
    counted.post_json("/fabricate", INLINE)
    lines = counted.request("GET", "/metrics").data.decode().splitlines()
    types = {line.split()[2]: line.split()[3] for line in lines if line.startswith("# TYPE weightloom_")}
    assert types == {metric.name: metric.kind for metric in METRICS}
    assert "process_resident_memory_bytes" in {line.split()[0] for line in lines if not line.startswith("#")}


def test_nonsense_makes_no_new_label_values(counted: Server) -> None:
    nonsense = random.Random(1)
    for number in range(60):
        word = "".join(nonsense.choices("abcdefghij/%20", k=12))
        method = nonsense.choice(["GET", "POST", "DELETE", "PUT", "PATCH", "BREW"])
        path = nonsense.choice(["/", "/v1/models/", "/v1/", "/fabricate?"]) + word
        counted.request(method, path, word.encode(), content_type=f"text/x-{number}", x_request_id=word)
    labels = {label for name, found in scrape(counted) if name.startswith("weightloom_") for label in found}
    names = {name for name, _ in labels}
    assert names == {"front", "call", "code", "le", "store", "version"}
    assert {text for name, text in labels if name == "front"} <= FRONTS
    assert {text for name, text in labels if name == "call"} <= CALLS | {OTHER}
    codes = {text for name, text in labels if name == "code"}
    assert all(code.replace("_", "").isalpha() for code in codes)
    assert len(codes) < 25
