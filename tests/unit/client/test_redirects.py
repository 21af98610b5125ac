"""Which addresses a client follows, and for how long it leaves one alone that failed."""

from __future__ import annotations

from typing import Any

import pytest
from weightloom_client import AsyncClient, Client
from weightloom_client.protocol import Broken, Part, Wanted
from weightloom_client.transports import Timeouts, Tls, transport_to
from weightloom_client.transports.base import for_balancers
from weightloom_client.transports.direct import AVOIDED_SECONDS, Direct, Redirects

LOCATION = "/fabricate?model=m&rows=t%3D0%3A4"


@pytest.mark.parametrize("mode", ["follow", "insecure"])
@pytest.mark.parametrize("url", ["http://b", "https://b:1"])
def test_an_address_is_what_stands_before_the_path(url: str, mode: Direct) -> None:
    redirects = Redirects(url, mode)
    for address in ("https://10.0.0.7:8000", "https://[fd00::7]:8000"):
        assert redirects.address(address + LOCATION) == address
        assert not redirects.is_downgrade(address)


@pytest.mark.parametrize(
    "location",
    [
        "",
        "/fabricate",
        "ftp://a/f",
        "//a/f",
        "http:///f",
        "http://:1/f",
        "http://[fd00/f",
        "http://a:x/f",
        "http://a:0/f",
        "http://a\t.b/f",
        " http://a/f",
    ],
)
def test_what_is_no_address_of_a_server_is_not_followed(location: str) -> None:
    assert Redirects("http://b", "follow").address(location) == ""


def test_http_behind_https_wants_to_be_allowed() -> None:
    assert Redirects("https://b", "follow").address("http://a" + LOCATION) == ""
    assert Redirects("https://b", "insecure").address("http://a" + LOCATION) == "http://a"
    assert Redirects("https://b", "insecure").is_downgrade("http://a")
    assert not Redirects("http://b", "follow").is_downgrade("http://a")


def test_an_address_that_failed_is_left_alone_for_a_while() -> None:
    now = 100.0
    redirects = Redirects("http://b", "follow", lambda: now)
    redirects.failed("http://a")
    assert redirects.address("http://a" + LOCATION) == ""
    assert redirects.address("http://c" + LOCATION) == "http://c"
    now += AVOIDED_SECONDS - 1
    redirects.failed("http://c")
    assert redirects.address("http://a" + LOCATION) == ""
    now += 1
    assert redirects.address("http://a" + LOCATION) == "http://a"
    assert redirects.address("http://c" + LOCATION) == ""


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [({"direct": "maybe"}, "expected one of follow, insecure, off"), ({"streams": 0}, "got 0, expected at least 1")],
)
@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_wrong_arguments_are_told_at_once(kind: type, arguments: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        kind("http://x", **arguments)


def test_streams_over_grpc_are_told_apart_too() -> None:
    seen: list[Any] = []
    transport: Any = transport_to("grpc://127.0.0.1:1", Timeouts(), {"a": "b"}, Tls(), "follow")

    def fabricate(request: Any, metadata: Any) -> Any:
        seen.append(metadata)
        raise Broken

    transport._stub.Fabricate = fabricate
    for stream in (0, 2):
        with pytest.raises(Broken):
            transport.open(Wanted.of("m", {}), Part(stream=stream))
    transport.close()
    own = ("a", "b"), ("x-weightloom-model", "m")
    assert seen == [own, (*own, ("x-weightloom-stream", "2"))]


def test_balancers_are_told_the_model_in_ascii() -> None:
    assert for_balancers(Wanted.of("demo/größe 1", {}), Part()) == {"X-Weightloom-Model": "demo/gr%C3%B6%C3%9Fe%201"}
    inline = {"name": "x", "seed": 1, "tensors": [{"name": "t", "shape": [2]}]}
    assert for_balancers(Wanted.of(inline, {}), Part(stream=3)) == {"X-Weightloom-Stream": "3"}
