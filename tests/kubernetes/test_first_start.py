"""A first start as docs/kubernetes.md tells it, with real processes on a fresh database, without a cluster."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from support.manifests import ROOT, SERVERS, probes, settings
from support.postgres import Cluster
from support.server import running_server

PAGE = (ROOT / "docs/kubernetes.md").read_text()


def weightloom(command: list[str], folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    program = [sys.executable, "-m", "weightloom", *command]
    return subprocess.run(
        program, cwd=folder, env=os.environ | variables, capture_output=True, text=True, timeout=120, check=False
    )


def test_the_first_key_is_made_by_the_command_of_the_page_and_then_servers_start(
    cluster: Cluster, tmp_path: Path
) -> None:
    everywhere: dict[str, Any] = {"WEIGHTLOOM_REGISTRY_URL": cluster.database(), **settings("cpu")}
    refused = weightloom(["serve", "--host", "0.0.0.0", "--port", "0", "--grpc-port", "0"], tmp_path, **everywhere)
    assert refused.returncode == 1
    assert "there is no API key that counts" in refused.stderr
    (command,) = re.findall(r"weightloom-admin -- weightloom (keys create .*) > token", PAGE)
    made = weightloom(command.split(), tmp_path, WEIGHTLOOM_REGISTRY_URL=everywhere["WEIGHTLOOM_REGISTRY_URL"])
    assert made.returncode == 0, made.stderr
    named = {name.removeprefix("WEIGHTLOOM_").lower(): value for name, value in everywhere.items()}
    with running_server(tmp_path / "data", host="0.0.0.0", **named) as server:
        asked = {path for overlay in SERVERS for path in probes(overlay).values()}
        assert {path: server.request("GET", path).status for path in asked} == dict.fromkeys(asked, 200)
        key = {"authorization": f"Bearer {made.stdout.strip()}"}
        spec = {"name": "m", "seed": 1, "tensors": [{"name": "t", "shape": [8], "l": 2}]}
        assert server.post_json("/v1/models", spec).status == 401
        assert server.post_json("/v1/models", spec, **key).status == 201
        assert server.post_json("/fabricate", {"model": "m", "w": {"t": [1, 2]}}, **key).status == 200
        blob = server.request("PUT", f"/v1/factors/{'0' * 64}", bytes(64), **key)
        assert (blob.status, blob.json()["code"]) == (413, "body_too_large"), "pods share no folder for it"


def test_a_service_link_would_keep_a_server_from_starting(tmp_path: Path) -> None:
    """Hence enableServiceLinks: false."""
    done = weightloom(["serve"], tmp_path, WEIGHTLOOM_PORT="tcp://10.96.0.1:8000")
    assert done.returncode == 2
    assert "port" in done.stderr
