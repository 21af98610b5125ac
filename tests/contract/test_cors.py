"""Pages of other origins: nothing is allowed to them unless a setting names them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from pydantic import ValidationError
from support.inline import INLINE
from support.server import Server, running_server
from weightloom.settings import Settings

PAGE = "https://page.example"
ASKED = {"origin": PAGE, "access-control-request-method": "POST", "access-control-request-headers": "authorization"}


@pytest.fixture(scope="module")
def allowing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("cors") / "data"
    with running_server(folder, cors_origins=f"{PAGE},http://localhost:5173") as running:
        yield running


def allowed(headers: dict[str, str]) -> str | None:
    return headers.get("access-control-allow-origin")


def test_without_the_setting_no_page_is_let_in(server: Server) -> None:
    preflight = server.request("OPTIONS", "/fabricate", **ASKED)
    assert preflight.status == 405
    reply = server.post_json("/fabricate", INLINE, origin=PAGE)
    assert reply.status == 200
    assert not [name for name in (*preflight.headers, *reply.headers) if name.lower().startswith("access-control")]


def test_pages_of_the_setting_may_call_and_read_what_a_resume_needs(allowing: Server) -> None:
    preflight = allowing.request("OPTIONS", "/fabricate", **ASKED)
    assert (preflight.status, allowed(preflight.headers)) == (200, PAGE)
    assert "authorization" in preflight.headers["access-control-allow-headers"]
    reply = allowing.post_json("/fabricate", INLINE, origin=PAGE)
    assert (reply.status, allowed(reply.headers)) == (200, PAGE)
    exposed = set(reply.headers["access-control-expose-headers"].split(", "))
    assert {"etag", "content-range", "retry-after"} <= exposed
    assert "access-control-allow-credentials" not in reply.headers


def test_pages_of_others_may_not(allowing: Server) -> None:
    other = {**ASKED, "origin": "https://other.example"}
    assert allowing.request("OPTIONS", "/fabricate", **other).status == 400
    assert allowed(allowing.post_json("/fabricate", INLINE, origin="https://other.example").headers) is None


@pytest.mark.parametrize(
    "wrong",
    [
        "page.example",
        "https://a/",
        "https://a, https://b",
        "*,https://a",
        "null",
        "https://*.example",
        "https://Page.example",
        "https://a@b",
        "https://a?",
    ],
)
def test_what_is_no_origin_is_refused_at_the_start(wrong: str) -> None:
    """Nor would what no browser ever sends let anybody in."""
    with pytest.raises(ValidationError, match="cors_origins"):
        Settings(cors_origins=wrong)
