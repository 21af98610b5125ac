"""API keys on Ray Serve, where nobody comes in without one, and what it says where a setting is missing."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from support.keys import key_for_all
from support.ray_serve import ROOT, TOKEN, RayServer, one_node
from weightloom_client import Client, RequestRejected

SPEC = {"name": "m", "seed": 1, "tensors": [{"name": "t", "shape": [40, 50], "l": 2}]}
W = {"t": np.ones(2)}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("keys") / "data"


@pytest.fixture(scope="module")
def admin(data_dir: Path) -> str:
    return key_for_all(data_dir)


@pytest.fixture(scope="module")
def server(data_dir: Path, admin: str) -> Iterator[RayServer]:
    with one_node(data_dir) as running:
        yield running


@pytest.fixture(params=["rest", "grpc"])
def url(request: pytest.FixtureRequest, server: RayServer) -> str:
    return server.url if request.param == "rest" else f"grpc://{server.grpc_target}"


def test_with_a_key_everything_goes(url: str, admin: str) -> None:
    with Client(url, api_key=admin) as client:
        client.create_model(SPEC)
        assert client.fabricate("m", W)["t"].shape == (40, 50)


@pytest.mark.parametrize("key", [None, "wl_00000000_wrong"])
def test_without_one_that_counts_nothing_does(url: str, key: str | None) -> None:
    with Client(url, api_key=key) as client, pytest.raises(RequestRejected) as caught:
        client.fabricate("m", W)
    assert caught.value.status == 401
    assert caught.value.code in ("key_missing", "key_unknown")


def test_an_application_that_lacks_a_setting_is_refused_and_told_why(tmp_path: Path, server: RayServer) -> None:
    """By another ``serve run``, which asks the cluster that runs."""
    environment = os.environ | TOKEN | {"RAY_SERVE_ENABLE_HA_PROXY": "1", "WEIGHTLOOM_DATA_DIR": str(tmp_path)}
    command = [str(Path(sys.executable).with_name("serve")), "run", "weightloom.ray:app", "--address=auto"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=ROOT, timeout=120)
    assert done.returncode
    assert "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD: got nothing, expected 0" in done.stdout + done.stderr
