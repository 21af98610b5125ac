"""API keys at a real server: the same for REST and gRPC, made and revoked while it runs."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from support.keys import key_for_all, keys
from support.server import SECONDS, Server, running_server, wait_until
from weightloom_client import Client, RequestRejected, ServerBusy
from weightloom_client.protocol import RetryPolicy

SPEC = {"name": "m", "seed": 1, "tensors": [{"name": "t", "shape": [40, 50], "l": 2}]}
W = {"t": np.ones(2)}
ONE_TRY = RetryPolicy(tries=1)
WORKERS = 2


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("keys") / "data"


@pytest.fixture(scope="module")
def admin(data_dir: Path) -> str:
    return key_for_all(data_dir)


@pytest.fixture(scope="module")
def server(data_dir: Path, admin: str) -> Iterator[Server]:
    with running_server(data_dir, workers=WORKERS, access_log=True) as running:
        with Client(running.url, api_key=admin) as client:
            client.create_model(SPEC)
        yield running


@pytest.fixture(params=["rest", "grpc"])
def url(request: pytest.FixtureRequest, server: Server) -> str:
    return server.url if request.param == "rest" else f"grpc://{server.grpc_target}"


def test_with_a_key_everything_goes(url: str, admin: str) -> None:
    with Client(url, api_key=admin) as client:
        assert client.fabricate("m", W)["t"].shape == (40, 50)
        client.set_residency("m", "resident")
        client.create_model(SPEC)


def test_without_a_key_nothing_goes_but_health(url: str, server: Server) -> None:
    with Client(url, retries=ONE_TRY) as client:
        for attempt in (
            lambda: client.fabricate("m", W),
            lambda: client.get_model("m"),
            lambda: client.create_model(SPEC),
            lambda: client.fabricate(SPEC, W),
            lambda: client.delete_model("m"),
        ):
            with pytest.raises(RequestRejected) as caught:
                attempt()
            assert (caught.value.status, caught.value.code) == (401, "key_missing")
    for path in ("/healthz", "/readyz"):
        assert server.request("GET", path).status == 200
    for path in ("/v1/info", "/metrics", "/docs", "/openapi.json", "/", "/v1/models", "/nothing", "/v1/factors/ab"):
        reply = server.request("GET", path)
        assert (reply.status, reply.headers["www-authenticate"]) == (401, "Bearer"), path
    with grpc.insecure_channel(server.grpc_target) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        assert health.Check(health_pb2.HealthCheckRequest()).status == health_pb2.HealthCheckResponse.SERVING
        reflect = channel.stream_stream("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo")
        with pytest.raises(grpc.RpcError) as refused:
            list(reflect(iter([b""])))
        assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED


def test_a_key_may_do_what_its_scope_says(url: str, server: Server) -> None:
    token = keys(server.data_dir, "create", "reader")
    wait_until(lambda: _statuses(server, token) == [200] * WORKERS)
    with Client(url, api_key=token, retries=ONE_TRY) as client:
        assert client.fabricate("m", W)
        with pytest.raises(RequestRejected, match="this call needs admin") as caught:
            client.delete_model("m")
        assert (caught.value.status, caught.value.code) == (403, "scope_missing")


def _statuses(server: Server, token: str) -> list[int]:
    """What each worker that a dozen connections come to says to a key; request ids tell workers apart."""
    header = {"authorization": f"bearer {token}", "connection": "close"}
    replies = [server.request("GET", "/v1/models/m", **header) for _ in range(12)]
    return [*{reply.headers["x-request-id"].partition("-")[0]: reply.status for reply in replies}.values()]


def test_a_key_is_revoked_while_the_server_runs(url: str, server: Server) -> None:
    token = keys(server.data_dir, "create", "leaver", "--days", "1")
    key_id = token.split("_")[1]
    wait_until(lambda: _statuses(server, token) == [200] * WORKERS)
    with Client(url, api_key=token, retries=ONE_TRY) as client:
        client.get_model("m")
        keys(server.data_dir, "revoke", key_id)
        wait_until(lambda: _statuses(server, token) == [401] * WORKERS)
        with pytest.raises(RequestRejected) as caught:
            client.get_model("m")
        assert caught.value.status == 401
    listed = keys(server.data_dir, "list")
    assert key_id in listed
    assert "leaver" in listed
    assert token.split("_", 2)[2] not in listed


def test_a_quota_is_told_with_the_time_to_wait(server: Server, tmp_path: Path) -> None:
    data = tmp_path / "data"
    token = keys(data, "create", "meter", "--requests-per-minute", "3", "--scope", "fabricate", "--scope", "admin")
    with running_server(data) as alone, Client(alone.url, api_key=token, retries=ONE_TRY) as client:
        client.create_model(SPEC)
        for _ in range(2):
            client.fabricate("m", W, verify="off")
        with pytest.raises(ServerBusy, match="3 requests a minute") as caught:
            client.fabricate("m", W, verify="off")
        assert 1 <= (caught.value.retry_after or 0) <= 20


def test_secrets_are_in_no_log(server: Server, admin: str) -> None:
    wait_until(lambda: f"key={admin.split('_')[1]}" in server.log.read_text())  # lines are written by a thread
    assert admin.split("_", 2)[2] not in server.log.read_text()


def test_a_server_that_others_can_reach_does_not_start_without_a_key(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "weightloom", "serve", "--host", "0.0.0.0", "--port", "0", "--grpc-port", "0"]
    command += ["--data-dir", str(tmp_path / "data")]
    told = subprocess.run(command, capture_output=True, text=True, check=False, timeout=SECONDS)
    assert told.returncode == 1
    assert "weightloom keys create NAME" in " ".join(told.stderr.split())


@pytest.mark.parametrize("with_key", [False, True])
def test_a_server_that_others_can_reach(with_key: bool, tmp_path: Path) -> None:
    token = keys(tmp_path / "data", "create", "somebody") if with_key else ""
    settings = {} if with_key else {"insecure_no_auth": True}
    with running_server(tmp_path / "data", host="0.0.0.0", **settings) as server:
        reply = server.request("GET", "/v1/info")
        assert reply.status == (401 if with_key else 200)
        assert server.request("GET", "/v1/info", authorization=f"bearer {token}").status == 200


def test_the_command_line_brings_its_key(server: Server, admin: str) -> None:
    command = [sys.executable, "-m", "weightloom", "models", "list", "--url", server.url]
    for key, code in (("", 1), (admin, 0)):
        environment = os.environ | {"WEIGHTLOOM_API_KEY": key}
        told = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=SECONDS)
        assert told.returncode == code, told.stderr
