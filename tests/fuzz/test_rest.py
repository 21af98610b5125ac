"""Whatever comes over HTTP is answered, or refused with a document that says why, and costs the server nothing."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fuzz.examples import register
from fuzz.trying import tried
from fuzz.wire import Reply, ask, requests
from support.server import Server, running_server
from weightloom import errors
from weightloom.rest.problems import ROUTING_CODES

FINE = {200, 201, 204, 206, 304}
REFUSED = {400, 404, 405, 408, 409, 412, 413, 415, 422, 431}


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Short of patience, since many requests are cut off in their midst."""
    limits = {"header_seconds": 0.2, "stall_seconds": 0.2, "log_format": "json"}
    with running_server(tmp_path_factory.mktemp("rest") / "data", **limits) as running:
        register(running)
        yield running


def known_codes(kind: type[errors.WeightloomError] = errors.WeightloomError) -> set[str]:
    """Those of an error class and all below it."""
    return set(kind.codes).union(*map(known_codes, kind.__subclasses__()))


CODES = known_codes() | set(ROUTING_CODES.values())


def judge(reply: Reply, data: bytes) -> None:
    """A status that the API has, and an error document for each that is an error."""
    if reply.status in {0, *FINE}:
        return
    late = reply.document is not None and reply.document["code"] in ("sender_stalled", "deadline_exceeded")
    assert reply.status in REFUSED or (reply.status == 504 and late), (reply, data)
    assert reply.headers["content-type"] == "application/problem+json", (reply, data)
    assert "x-request-id" in reply.headers, (reply, data)
    if reply.document is not None:  # HEAD has none
        assert reply.document["code"] in CODES, (reply, data)
        assert reply.document["status"] == reply.status, (reply, data)


def test_any_request_is_answered_or_refused(target: Server) -> None:
    @tried(requests(), 200)
    def check(data: bytes) -> None:
        judge(ask(target, data), data)

    check()
    assert target.request("GET", "/readyz").status == 200
    assert '"level": "ERROR"' not in target.log.read_text()
    assert "Traceback" not in target.log.read_text()
