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
from support.server import Server, running_server
from weightloom_client import Client

SECONDS = float(os.environ.get("FUZZ_SECONDS", "0"))
# A schema cannot say all that counts (digests that were uploaded, shapes that fit), so it may be refused; and
# `/v1/models/x/residency` is also the model `x/residency`, hence more methods than the document has for it.
NOT_ASKED = "positive_data_acceptance,allow_header_conformance"
OPTIONS = ["--phases", "examples,coverage,fuzzing", "--exclude-checks", NOT_ASKED, "--suppress-health-check", "all"]
SHORT = ["--generation-deterministic", "--max-examples", "25"]


def run(module: str, *arguments: str, folder: Path) -> str:
    """What the command prints, which must succeed."""
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(params=["open", "with keys"])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Server, str]]:
    """A server that has a model, and what a key for it is."""
    key = ""
    if request.param == "with keys":
        scopes = ["--scope", "admin", "--scope", "fabricate"]
        key = run("weightloom", "keys", "create", "x", *scopes, "--data-dir", "data", folder=tmp_path).strip()
    with running_server(tmp_path / "data", log_format="json") as server, Client(server.url, api_key=key) as client:
        client.create_model(MODEL)
        yield server, key


def test_replies_are_as_the_openapi_document_says(target: tuple[Server, str], tmp_path: Path) -> None:
    server, key = target
    header = ["--header", f"Authorization: Bearer {key}"] if key else []
    length = SHORT if not SECONDS else ["--max-time", str(SECONDS), "--max-examples", "1000000"]
    document = f"{server.url}/openapi.json"
    told = run("schemathesis.cli", "run", document, "--no-color", *OPTIONS, *length, *header, folder=tmp_path)
    assert re.search(r"(\d+) selected / \1 total", told)
    assert server.request("GET", "/readyz").status == 200
    assert '"level": "ERROR"' not in server.log.read_text()
