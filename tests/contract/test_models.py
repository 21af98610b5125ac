"""/v1/models against a real server."""

from __future__ import annotations

from typing import Any

import pytest
from support.server import Server


def spec(name: str, seed: int = 1, **tensor: Any) -> dict[str, Any]:
    return {"name": name, "seed": seed, "tensors": [{"name": "t", "shape": [4, 6]} | tensor]}


def test_a_model_is_registered_once(server: Server) -> None:
    first = server.post_json("/v1/models", spec("models/once"))
    again = server.post_json("/v1/models", spec("models/once"))
    other = server.post_json("/v1/models", spec("models/once", seed=2))
    assert (first.status, again.status, other.status) == (201, 200, 409)
    assert first.headers["Location"] == "/v1/models/models/once"
    assert first.json() == again.json()
    assert other.json()["code"] == "model_conflict"
    assert first.json()["digest"] in other.json()["detail"]


def test_a_model_is_shown_by_name_and_digest_with_sizes(server: Server) -> None:
    made = server.post_json("/v1/models", spec("models/shown", seed=2**64 - 1, l=8, r=3)).json()
    shown = server.request("GET", "/v1/models/models/shown")
    assert shown.status == 200
    assert shown.json() == made == server.request("GET", f"/v1/models/{made['digest']}").json()
    assert made["seed"] == str(2**64 - 1)
    assert made["data_bytes"] == {"F32": 96, "F16": 48, "BF16": 48}
    assert made["tensors"][0]["degrees_of_freedom"] == 3
    assert "only 3 degrees of freedom although its w has 8 numbers" in made["description"]


def test_models_are_listed_by_page(server: Server) -> None:
    names = [f"models/page/{i}" for i in range(5)]
    for name in names:
        server.post_json("/v1/models", spec(name))
    after, seen = "models/page", []
    while after is not None and len(seen) < 5:
        page = server.request("GET", f"/v1/models?after={after}&limit=2").json()
        assert len(page["models"]) <= 2
        seen += [model["name"] for model in page["models"]]
        after = page["next"]
    assert seen[:5] == names


def test_a_deleted_model_is_gone(server: Server) -> None:
    made = server.post_json("/v1/models", spec("models/gone")).json()
    assert server.request("DELETE", "/v1/models/models/gone").status == 204
    for path in ("/v1/models/models/gone", f"/v1/models/{made['digest']}"):
        for method in ("GET", "DELETE"):
            reply = server.request(method, path)
            assert (reply.status, reply.json()["code"]) == (404, "model_not_found")
    fabricated = server.post_json("/fabricate", {"model": "models/gone", "w": {"t": [0.0] * 64}})
    assert fabricated.status == 404


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"name": "models/bad"}'])
def test_a_bad_spec_registers_nothing(server: Server, body: bytes) -> None:
    reply = server.request("POST", "/v1/models", body)
    assert reply.status == 422
    assert reply.json()["code"] in ("malformed_json", "invalid_spec")
    assert server.request("GET", "/v1/models/models/bad").status == 404


def test_a_bad_page_is_told(server: Server) -> None:
    reply = server.request("GET", "/v1/models?limit=0")
    assert (reply.status, reply.json()["code"]) == (422, "invalid_request")
    assert reply.json()["errors"][0]["field"] == "query.limit"
