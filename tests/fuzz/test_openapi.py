"""Schemathesis tries what the OpenAPI document allows and what it does not; replies must be as the document says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from fuzz.examples import MODEL
from support.keys import key_for_all
from support.server import Server, running_server
from weightloom_client import Client

SECONDS = float(os.environ.get("FUZZ_SECONDS", "0"))
# A schema cannot say all that counts (digests that were uploaded, shapes that fit), so it may be refused; and
# `/v1/models/x/residency` is also the model `x/residency`, hence more methods than the document has for it.
NOT_ASKED = "positive_data_acceptance,allow_header_conformance"
OPTIONS = ["--phases", "examples,coverage,fuzzing", "--exclude-checks", NOT_ASKED, "--suppress-health-check", "all"]
OPTIONS += ["--request-timeout", "60"]  # a busy machine is slow
SHORT = ["--generation-deterministic", "--max-examples", "25"]


@pytest.fixture(params=["open", "with keys"])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Server, str]]:
    """A server that has a model, and what a key for it is."""
    key = key_for_all(tmp_path / "data") if request.param == "with keys" else ""
    with running_server(tmp_path / "data", log_format="json") as server, Client(server.url, api_key=key) as client:
        client.create_model(MODEL)
        yield server, key


def test_replies_are_as_the_openapi_document_says(target: tuple[Server, str], tmp_path: Path) -> None:
    server, key = target
    header = ["--header", f"Authorization: Bearer {key}"] if key else []
    length = SHORT if not SECONDS else ["--max-time", str(SECONDS), "--max-examples", "1000000"]
    document = f"{server.url}/openapi.json"
    command = [sys.executable, "-m", "schemathesis.cli", "run", document, "--no-color", *OPTIONS, *length, *header]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"(\d+) selected / \1 total", done.stdout)
    assert server.request("GET", "/readyz").status == 200
    assert '"level": "ERROR"' not in server.log.read_text()
