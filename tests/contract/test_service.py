"""Health, information, documents, limits."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import urllib3
from support.server import Server, running_server
from weightloom.rest.problems import ROUTING_CODES
from weightloom.settings import Settings


def test_alive_ready_and_informed(server: Server) -> None:
    assert server.request("GET", "/healthz").json() == {"status": "alive"}
    assert server.request("GET", "/readyz").json() == {"status": "ready"}
    info = server.request("GET", "/v1/info").json()
    assert info["generator"] == "philox-normal-v1"
    assert info["limits"]["max_request_bytes"] == Settings.model_fields["max_request_bytes"].default
    assert info["limits"]["max_tensors"] == 100_000


def test_a_broken_registry_is_not_ready_and_says_why(tmp_path: Path) -> None:
    with running_server(tmp_path / "data") as server:
        for file in (tmp_path / "data").iterdir():
            with file.open("r+b") as opened:  # not truncated: SQLite maps one of them, and would die by SIGBUS
                opened.write(b"rubbish" * 2000)
        reply = server.request("GET", "/readyz")
        assert reply.status == 503
        assert reply.json()["code"] == "registry_unavailable"
        assert "registry.sqlite3" in reply.json()["detail"]
        assert server.request("GET", "/healthz").status == 200


def test_a_browser_gets_a_page_that_links_the_docs(server: Server) -> None:
    page = server.request("GET", "/")
    assert page.headers["Content-Type"].startswith("text/html")
    text = page.data.decode()
    assert 'href="docs"' in text
    assert "philox-normal-v1" in text
    assert "$" not in text
    docs = server.request("GET", "/docs").data.decode()
    assert "https://" not in docs, "the documentation must work without the internet"
    assert server.request("GET", "/static-offline-docs/swagger-ui-bundle.js").status == 200


def test_the_examples_of_the_documentation_run(tmp_path: Path) -> None:
    with running_server(tmp_path / "data") as server:
        paths = server.request("GET", "/openapi.json").json()["paths"]
        for path in ("/v1/models", "/fabricate"):
            examples = paths[path]["post"]["requestBody"]["content"]["application/json"]["examples"]
            assert examples
            for name, example in examples.items():
                reply = server.post_json(path, example["value"])
                assert reply.status in (200, 201), (name, reply.data)


def test_the_document_names_every_route_and_the_shape_of_errors(server: Server) -> None:
    document = server.request("GET", "/openapi.json").json()
    assert set(document["paths"]) == {
        "/fabricate",
        "/v1/models",
        "/v1/models/{name}/residency",
        "/v1/models/{name}",
        "/v1/factors/{sha256}",
        "/healthz",
        "/readyz",
        "/v1/info",
    }
    text = json.dumps(document)
    for reference in set(text.split('"#/components/schemas/')[1:]):
        assert reference.partition('"')[0] in document["components"]["schemas"]
    assert "application/problem+json" in document["paths"]["/fabricate"]["post"]["responses"]["422"]["content"]


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/nope", 404), ("PUT", "/v1/models", 405)])
def test_unknown_routes_are_problems_too(server: Server, method: str, path: str, status: int) -> None:
    reply = server.request(method, path)
    assert reply.status == status
    assert reply.headers["Content-Type"] == "application/problem+json"
    assert reply.json()["code"] == ROUTING_CODES[status]


@pytest.mark.parametrize(
    ("path", "methods"),
    [
        ("/v1/models", {"GET", "POST"}),
        ("/v1/models/a", {"GET", "DELETE"}),
        ("/v1/info", {"GET"}),
        ("/fabricate", {"POST"}),
    ],
)
def test_a_method_that_is_not_allowed_is_told_those_that_are(server: Server, path: str, methods: set[str]) -> None:
    reply = server.request("PATCH", path)
    assert reply.status == 405
    assert set(reply.headers["Allow"].split(", ")) - {"HEAD"} == methods


def test_the_document_names_what_models_are_refused_with(server: Server) -> None:
    paths = server.request("GET", "/openapi.json").json()["paths"]
    assert {"200", "201", "409", "413", "422", "503", "504"} <= set(paths["/v1/models"]["post"]["responses"])
    for path, method in (
        ("/v1/models/{name}", "get"),
        ("/v1/models/{name}", "delete"),
        ("/v1/models/{name}/residency", "put"),
    ):
        assert {"404", "413", "422", "503", "504"} <= set(paths[path][method]["responses"])
    assert {"429", "503", "504"} <= set(paths["/fabricate"]["post"]["responses"])


def test_limits_are_kept_on_every_route(tmp_path: Path) -> None:
    with running_server(tmp_path / "data", max_request_bytes=1000, max_output_bytes=5000) as server:
        for path in ("/fabricate", "/v1/models"):
            reply = server.post_json(path, {"name": "x" * 2000})
            assert (reply.status, reply.json()["code"]) == (413, "body_too_large")
            assert "max_request_bytes" in reply.json()["detail"]
        tensors: list[dict[str, object]] = [{"name": "t", "shape": [100, 100], "kind": "constant", "value": "ones"}]
        whole = server.post_json("/fabricate", {"seed": 1, "tensors": tensors})
        assert (whole.status, whole.json()["code"]) == (413, "output_too_large")
        assert "max_output_bytes" in whole.json()["detail"]
        part = server.post_json("/fabricate", {"seed": 1, "tensors": tensors, "length": 5000})
        assert (part.status, len(part.data)) == (206, 5000)


def test_long_json_is_sent_to_the_faster_form(tmp_path: Path) -> None:
    with running_server(tmp_path / "data", max_json_bytes=100) as server:
        reply = server.post_json("/fabricate", {"name": "x" * 200})
        assert (reply.status, reply.json()["code"]) == (413, "body_too_large")
        assert "max_json_bytes" in reply.json()["detail"]
        longer = server.request("POST", "/fabricate", b"x" * 200, content_type="application/octet-stream")
        assert longer.json()["code"] == "malformed_safetensors"


@pytest.mark.parametrize("path", ["/", "/healthz", "/readyz", "/v1/models", "/docs"])
def test_head_is_answered_like_get(server: Server, path: str) -> None:
    assert (server.request("HEAD", path).status, server.request("HEAD", path).data) == (200, b"")


def test_a_body_that_announces_no_length_is_limited_too(tmp_path: Path) -> None:
    with running_server(tmp_path / "data", max_request_bytes=1000) as server:
        for path in ("/fabricate", "/v1/models"):
            reply = urllib3.request("POST", server.url + path, body=iter([b"x" * 600] * 3), retries=False)
            assert (reply.status, reply.json()["code"]) == (413, "body_too_large")
