"""One id for each call: in the reply, in an error's document, and in the log."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from support.server import Server, running_server, wait_until

PLACES = [
    ("GET", "/healthz", 200),
    ("GET", "/v1/models", 200),
    ("GET", "/v1/models/none", 404),
    ("GET", "/v1/models?limit=x", 422),
    ("PUT", "/v1/models", 405),
    ("POST", "/v1/models", 422),
    ("GET", "/no/such/path", 404),
    ("POST", "/fabricate", 422),
    ("GET", "/fabricate", 405),
    ("GET", "/docs", 200),
    ("GET", "/metrics", 200),
]


@pytest.mark.parametrize(("method", "path", "status"), PLACES)
def test_every_reply_has_the_id_that_was_sent_or_a_new_one(server: Server, method: str, path: str, status: int) -> None:
    sent = server.request(method, path, x_request_id="a reader's own")
    made = [server.request(method, path, x_request_id=unfit) for unfit in ("", "x" * 129)]
    assert [reply.status for reply in (sent, *made)] == [status] * 3
    assert sent.headers.getlist("X-Request-Id") == ["a reader's own"]
    ids = [reply.headers["X-Request-Id"] for reply in made]
    assert len(set(ids)) == 2
    assert all(re.fullmatch(r"[0-9a-f]{12}-[0-9a-f]+", made_id) for made_id in ids)
    if status >= 400:
        assert sent.json()["request_id"] == "a reader's own"


@pytest.fixture(scope="module")
def talkative(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that logs every call, as JSON."""
    folder = tmp_path_factory.mktemp("talkative")
    with running_server(folder / "data", log_format="json", access_log=True) as server:
        yield server


def lines(server: Server) -> list[dict[str, Any]]:
    return [json.loads(line) for line in server.log.read_text().splitlines()]


def line_of(server: Server, request_id: str) -> dict[str, Any]:
    def found() -> list[dict[str, Any]]:
        return [line for line in lines(server) if line["request_id"] == request_id]

    wait_until(found)
    (line,) = found()
    return line


def test_all_log_lines_are_json_with_the_same_fields(talkative: Server) -> None:
    found = lines(talkative)
    assert {"uvicorn.error", "weightloom"} <= {line["logger"] for line in found}
    for line in found:
        assert {"time", "level", "logger", "pid", "request_id", "message"} <= set(line)
        assert line["pid"] == talkative.process.pid
        assert "color_message" not in line


def test_a_call_is_one_line_of_the_access_log_with_the_id_of_its_reply(talkative: Server) -> None:
    tensors = [{"name": "t", "shape": [4, 4], "l": 4}]
    reply = talkative.post_json("/fabricate", {"seed": 1, "tensors": tensors, "w": {"t": [1, 2, 3, 4]}})
    line = line_of(talkative, reply.headers["X-Request-Id"])
    assert (line["logger"], line["level"]) == ("weightloom.access", "INFO")
    assert (line["front"], line["call"], line["code"]) == ("rest", "fabricate", "ok")
    assert line["seconds"] > 0
    assert {"bytes", "queue", "compute", "send"} <= set(line)


def test_a_failed_call_tells_its_code_and_model(talkative: Server) -> None:
    reply = talkative.request("GET", "/v1/models/no%1Bsuch")
    line = line_of(talkative, reply.json()["request_id"])
    assert (line["call"], line["code"], line["model"]) == ("get_model", "model_not_found", "no\x1bsuch")
    made = talkative.post_json("/v1/models", {"name": "ids/one", "seed": 1, "tensors": tensors()}, x_request_id="made")
    assert made.status == 201
    assert line_of(talkative, "made")["model"] == "ids/one"


def tensors() -> list[dict[str, Any]]:
    return [{"name": "t", "shape": [2]}]


def test_status_routes_are_not_in_the_access_log(talkative: Server) -> None:
    for path in ("/healthz", "/metrics"):
        talkative.request("GET", path, x_request_id="quiet")
    talkative.request("GET", "/v1/models", x_request_id="loud")
    assert line_of(talkative, "loud")["call"] == "list_models"
    assert not [line for line in lines(talkative) if line["request_id"] == "quiet"]


def test_the_console_form_has_one_line_for_each_call_whatever_the_model_is_called(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    with running_server(tmp_path_factory.mktemp("console") / "data", access_log=True) as server:
        server.request("GET", "/v1/models/no%1Bsuch", x_request_id="console-1")
        wait_until(lambda: "console-1" in server.log.read_text())
        (line,) = [line for line in server.log.read_text().splitlines() if "console-1" in line]
    assert f"INFO weightloom.access [{server.process.pid} console-1] rest get_model model_not_found" in line
    assert r"model='no\x1bsuch'" in line


def test_without_the_setting_there_is_no_access_log(server: Server) -> None:
    server.request("GET", "/v1/models", x_request_id="unseen")
    assert "unseen" not in server.log.read_text()
    assert "weightloom.access" not in server.log.read_text()
