"""The registry's database over TLS, as `sslmode=verify-full` in `registry_url` asks for it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trustme
from support.postgres import running_cluster
from support.server import running_server

MODEL = {"name": "over/tls", "seed": 1, "tensors": [{"name": "t", "shape": [2]}]}


UrlWith = Callable[[str], str]


@pytest.fixture(scope="module")
def url_with(tmp_path_factory: pytest.TempPathFactory) -> Iterator[UrlWith]:
    """The database's URL, trusting whom a file of certificates names: ca.pem is right."""
    authority, folder = trustme.CA(), tmp_path_factory.mktemp("pem")
    authority.cert_pem.write_to_path(folder / "ca.pem")
    trustme.CA().cert_pem.write_to_path(folder / "other.pem")
    issued = authority.issue_cert("127.0.0.1")
    with running_cluster() as cluster:
        cluster.speak_tls(issued.cert_chain_pems[0].bytes(), issued.private_key_pem.bytes())
        yield lambda ca: f"{cluster.url()}?sslmode=verify-full&sslrootcert={folder / ca}"


def test_the_registry_is_read_and_written_over_tls(url_with: UrlWith, tmp_path: Path) -> None:
    with running_server(tmp_path / "data", registry_url=url_with("ca.pem")) as server:
        assert server.post_json("/v1/models", MODEL).status == 201
        assert server.request("GET", "/v1/models/over/tls").status == 200


@pytest.mark.parametrize(("ca", "told"), [("other.pem", "certificate verify failed"), ("none.pem", "does not exist")])
def test_a_database_that_nobody_vouches_for_is_not_used(url_with: UrlWith, tmp_path: Path, ca: str, told: str) -> None:
    command = [sys.executable, "-m", "weightloom", "models", "list", "--data-dir", str(tmp_path)]
    environment = {"WEIGHTLOOM_REGISTRY_URL": url_with(ca)}
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert told in done.stderr
