"""When a server with an address of its own sends a client there, and what it says then."""

from __future__ import annotations

import hashlib
import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import urllib3
from pydantic import ValidationError
from support.balancer import direct_server
from support.metrics import scrape, value
from support.server import Server, running_server, wait_until
from support.streams import BareClient, bulk, local_hash
from weightloom.fabric import safetensors
from weightloom.settings import Settings

BALANCER = "balancer.example"
LARGE = bulk(600)  # 1.44 MB


@pytest.fixture(scope="module")
def direct(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with direct_server(tmp_path_factory.mktemp("direct") / "data") as running:
        yield running


def post(server: Server, request: dict[str, Any], host: str = BALANCER, **headers: str) -> Any:
    return server.post_json("/fabricate", request, host=host, **headers)


def test_a_large_file_is_sent_to_the_servers_own_address(direct: Server) -> None:
    reply = post(direct, LARGE)
    assert reply.status == 307
    assert reply.headers["Location"] == f"{direct.url}/fabricate"
    assert reply.headers["X-Request-Id"]
    problem = reply.json()
    assert (problem["status"], problem["code"]) == (307, "redirected")
    assert direct.url in problem["detail"], "whoever does not follow is told what to do"
    there = direct.post_json("/fabricate", LARGE, if_match=reply.headers["ETag"])
    assert there.status == 200
    assert hashlib.sha256(there.data).hexdigest() == local_hash(LARGE)


def test_the_query_goes_along_as_it_came(direct: Server) -> None:
    tensor = LARGE["tensors"][0] | {"name": "odd = +é"}
    others = [{"name": f"other{'r' * 60}{n}", "shape": [1], "kind": "constant", "value": "ones"} for n in range(40)]
    assert direct.post_json("/v1/models", {"name": "direct/odd", "seed": 1, "tensors": [tensor, *others]}).status == 201
    w = safetensors.write({}, {tensor["name"]: np.ones(4, np.float32)})
    query = "model=direct/odd&rows=odd%20%3D+%2B%C3%A9%3D0:600&tensors=odd%20=%20%2B%C3%A9"
    sent = {"content_type": "application/octet-stream", "host": BALANCER}
    reply = direct.request("POST", f"/fabricate?{query}", w, **sent)
    assert (reply.status, reply.headers["Location"]) == (307, f"{direct.url}/fabricate?{query}")
    long = "&tensors=".join([query, *(other["name"] for other in others)])
    assert direct.request("POST", f"/fabricate?{long}", w, **sent).status == 200, "a proxy may bound a reply's head"


def test_a_connection_goes_on_behind_a_redirect(direct: Server) -> None:
    body, own = json.dumps(LARGE).encode(), direct.url.removeprefix("http://")
    with urllib3.connection_from_url(direct.url, retries=False) as pool:
        for host, status in ((BALANCER, 307), (own, 200), (BALANCER, 307)):
            assert pool.request("POST", "/fabricate", body=body, headers={"Host": host}).status == status
        assert pool.num_connections == 1


@pytest.mark.parametrize("spelled", ["{}", " {} "])
def test_what_came_to_that_address_is_answered_there(direct: Server, spelled: str) -> None:
    assert post(direct, LARGE, host=spelled.format(direct.url.removeprefix("http://"))).status == 200


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("http://Wl-7.example", "wl-7.EXAMPLE"),
        ("http://wl-7.example", "wl-7.example:80"),
        ("https://wl-7.example:443/", "wl-7.example"),
        ("http://[fd00::7]:8000", "[FD00::7]:8000"),
    ],
)
def test_an_address_is_known_however_it_is_spelled(tmp_path: Path, url: str, host: str) -> None:
    with running_server(tmp_path / "data", direct_url=url, direct_bytes=1_000_000) as server:
        assert post(server, LARGE, host=host).status == 200
        elsewhere = post(server, LARGE)
        assert (elsewhere.status, elsewhere.headers["Location"]) == (307, url.rstrip("/") + "/fabricate")


@pytest.mark.parametrize(
    "changes",
    [{"length": 999_999}, {"offset": 500_000}, {"rows": {"t": [0, 300]}}, {"dtype": "F16"}],
    ids=["length", "offset", "rows", "dtype"],
)
def test_only_the_bytes_that_are_asked_for_count(direct: Server, changes: dict[str, Any]) -> None:
    assert post(direct, LARGE | changes).status in (200, 206)
    assert post(direct, LARGE | {"offset": 100}).status == 307


def test_a_body_as_large_as_its_file_is_not_sent_twice(direct: Server) -> None:
    request = {"seed": 1, "tensors": [{"name": "b", "shape": [400_000], "kind": "identity"}]}
    assert post(direct, request | {"w": {"b": [1.5] * 400_000}}).status == 200


def test_a_client_may_decline(direct: Server) -> None:
    assert post(direct, LARGE, x_weightloom_direct="no").status == 200
    assert post(direct, LARGE, x_weightloom_direct="No").status == 200
    assert post(direct, LARGE, x_weightloom_direct="yes").status == 307


def test_a_browser_is_answered_where_it_asked(direct: Server) -> None:
    """Or the page /docs could not show large files through a balancer."""
    assert post(direct, LARGE, origin="https://page.example").status == 200
    assert post(direct, LARGE, origin="https://page.example", x_weightloom_direct="yes").status == 307


def test_conditions_and_errors_come_first(direct: Server) -> None:
    etag = post(direct, LARGE).headers["ETag"]
    assert post(direct, LARGE, if_match=etag).status == 307
    assert post(direct, LARGE, if_match='"other"').json()["code"] == "etag_mismatch"
    assert post(direct, LARGE, if_none_match=etag).status == 304
    assert post(direct, LARGE | {"dtype": "F8"}).json()["code"] == "dtype_unknown"


def test_a_redirect_is_counted_as_one_and_holds_nothing(direct: Server) -> None:
    labels = {"front": "rest", "call": "fabricate", "code": "redirected"}
    before = scrape(direct)
    post(direct, LARGE)
    after = scrape(direct)
    assert value(after, "requests_total", **labels) == value(before, "requests_total", **labels) + 1
    assert value(after, "sent_bytes_total", front="rest") == value(before, "sent_bytes_total", front="rest")
    assert value(after, "bytes_in_flight") == value(after, "streams_running") == 0


def test_nobody_is_sent_anywhere_unless_the_operator_says_so(server: Server) -> None:
    assert post(server, LARGE).status == 200


def test_the_document_has_it(direct: Server) -> None:
    operation = direct.request("GET", "/openapi.json").json()["paths"]["/fabricate"]["post"]
    assert "Location" in operation["responses"]["307"]["headers"]
    assert "X-Weightloom-Direct" in {parameter["name"] for parameter in operation["parameters"]}


def test_a_server_that_stops_sends_nobody_to_itself(tmp_path: Path) -> None:
    with direct_server(tmp_path / "data", access_log=True) as server:
        with BareClient(server.url, bulk(4000), host=server.url.removeprefix("http://")) as reader:
            next(reader.read())
            assert post(server, LARGE | {"name": "direct/seen"}).status == 307
            server.process.send_signal(signal.SIGTERM)
            wait_until(lambda: post(server, LARGE).status != 307)
            assert post(server, LARGE).json()["code"] == "draining"
        wait_until(lambda: server.process.poll() is not None)
        assert "rest fabricate redirected model='direct/seen'" in server.log.read_text()


@pytest.mark.parametrize(
    "url",
    [
        "wl-7.example",
        "ftp://wl-7.example",
        "http://wl-7.example/path",
        "http://a@b",
        "http://",
        "http://:8000",
        "http://fd00::7:8000",
        "http://[fd00::7:8000",
        "http://wl-7.example:80000",
    ],
)
def test_an_address_is_a_scheme_a_host_and_a_port(url: str) -> None:
    with pytest.raises(ValidationError, match="direct_url"):
        Settings(direct_url=url)


def test_an_address_goes_with_tls() -> None:
    files = {"tls_cert": Path("c"), "tls_key": Path("k")}
    assert Settings(direct_url="https://wl-7.example", **files).direct_url
    with pytest.raises(ValidationError, match="https:// beside tls_cert"):
        Settings(direct_url="http://wl-7.example", **files)
