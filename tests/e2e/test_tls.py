"""TLS on both fronts, and clients of gRPC that must show who they are."""

from __future__ import annotations

import asyncio
import hashlib
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import trustme
import urllib3
from support.server import SECONDS, Server, running_server
from support.streams import bulk, local_hash
from weightloom import health
from weightloom_client import AsyncClient, Client, RetryPolicy, ServerUnreachable, Tls

LARGE = bulk(2000)  # 16 MB, in tiles that go straight to the socket where there is no TLS
MODEL, W = {"name": "inline"} | {key: LARGE[key] for key in ("seed", "tensors")}, LARGE["w"]
ONE_TRY = RetryPolicy(tries=1)


@dataclass
class Files:
    folder: Path

    def __post_init__(self) -> None:
        authority, others = trustme.CA(), trustme.CA()
        authority.cert_pem.write_to_path(self.ca)
        others.cert_pem.write_to_path(self.other_ca)
        for name, issuer in {"server": authority, "client": authority, "stranger": others}.items():
            issued = issuer.issue_cert("127.0.0.1")
            issued.private_key_pem.write_to_path(self.folder / f"{name}.key")
            for blob in issued.cert_chain_pems:
                blob.write_to_path(self.folder / f"{name}.pem", append=True)

    @property
    def ca(self) -> Path:
        return self.folder / "ca.pem"

    @property
    def other_ca(self) -> Path:
        return self.folder / "other-ca.pem"

    def settings(self) -> dict[str, Path]:
        return {"tls_cert": self.folder / "server.pem", "tls_key": self.folder / "server.key"}

    def shown(self, name: str) -> Tls:
        return Tls(self.ca, self.folder / f"{name}.pem", self.folder / f"{name}.key")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return Files(tmp_path_factory.mktemp("pem"))


@pytest.fixture(scope="module")
def http(files: Files) -> urllib3.PoolManager:
    return urllib3.PoolManager(ca_certs=str(files.ca), retries=False, timeout=60)


@pytest.fixture(scope="module", params=[1, 2], ids=["one-process", "two-workers"])
def server(
    request: pytest.FixtureRequest, files: Files, http: urllib3.PoolManager, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("server") / "data"
    with running_server(folder, workers=request.param, http=http, **files.settings()) as running:
        yield running


def test_both_fronts_give_the_same_bytes_over_tls(server: Server, files: Files, tmp_path: Path) -> None:
    assert server.url.startswith("https://")
    for url in (server.url, f"grpcs://{server.grpc_target}"):
        with Client(url, tls=Tls(files.ca)) as client:
            client.download(MODEL, W, tmp_path / "f")
        assert hashlib.sha256((tmp_path / "f").read_bytes()).hexdigest() == local_hash(LARGE)


@pytest.mark.parametrize("tls", ["system", "other"])
def test_a_server_that_nobody_vouches_for_is_not_used(server: Server, files: Files, tls: str) -> None:
    trust = Tls() if tls == "system" else Tls(files.other_ca)
    for url in (server.url, f"grpcs://{server.grpc_target}"):
        with Client(url, tls=trust, retries=ONE_TRY) as client, pytest.raises(ServerUnreachable):
            client.get_model("m")


def test_the_health_command_works_over_tls(server: Server, files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "TIMEOUT_SECONDS", SECONDS)
    port = server.url.rpartition(":")[2]
    environment = {"WEIGHTLOOM_PORT": port, "WEIGHTLOOM_TLS_CERT": "c.pem"}
    assert health.default_url(environment) == f"{server.url}/readyz"
    assert health.problem_of(health.default_url(environment)) is None


def test_without_tls_there_is_no_way_in(server: Server) -> None:
    for url in (server.url.replace("https", "http"), f"grpc://{server.grpc_target}"):
        with Client(url, retries=ONE_TRY) as client, pytest.raises(ServerUnreachable):
            client.get_model("m")
    assert server.request("GET", "/readyz").status == 200


def test_clients_of_grpc_must_show_their_certificate(files: Files, http: urllib3.PoolManager, tmp_path: Path) -> None:
    settings = files.settings() | {"grpc_client_ca": files.ca}
    with running_server(tmp_path / "data", http=http, **settings) as server:
        target = f"grpcs://{server.grpc_target}"
        with Client(target, tls=files.shown("client")) as client:
            assert client.fabricate(MODEL, W, rows={LARGE["tensors"][0]["name"]: (0, 1)})
        for shown in (Tls(files.ca), files.shown("stranger")):
            with Client(target, tls=shown, retries=ONE_TRY) as client, pytest.raises(ServerUnreachable):
                client.get_model("m")
        with Client(server.url, tls=Tls(files.ca)) as client:  # REST asks for none
            assert list(client.list_models()) == []


async def _fabricated(url: str, tls: Tls) -> dict[str, np.ndarray]:
    async with AsyncClient(url, tls=tls) as client:
        return await client.fabricate(MODEL, W)


def test_asyncio_s_client_has_it_too(server: Server, files: Files) -> None:
    made = asyncio.run(_fabricated(server.url, Tls(files.ca)))
    with Client.local() as local:
        expected = local.fabricate(MODEL, W)
    assert all(np.array_equal(made[name], expected[name]) for name in expected)


def started_with(*options: str | Path) -> tuple[int, str]:
    command = [sys.executable, "-m", "weightloom", "serve", "--port", "0", "--grpc-port", "0", *map(str, options)]
    told = subprocess.run(command, capture_output=True, text=True, check=False, timeout=SECONDS)
    return told.returncode, " ".join(told.stderr.split())


def test_files_that_cannot_be_used_are_told_at_the_start(files: Files, tmp_path: Path) -> None:
    data, pem, key = ("--data-dir", tmp_path), files.folder / "server.pem", files.folder / "server.key"
    code, told = started_with(*data, "--tls-cert", pem, "--tls-key", tmp_path / "none")
    assert (code, "tls_key" in told, "No such file" in told) == (1, True, True)
    code, told = started_with(*data, "--tls-cert", pem, "--tls-key", files.folder / "client.key")
    assert (code, "KEY_VALUES_MISMATCH" in told) == (1, True)
    (tmp_path / "rubbish").write_text("rubbish")
    code, told = started_with(*data, "--tls-cert", pem, "--tls-key", key, "--grpc-client-ca", tmp_path / "rubbish")
    assert (code, "grpc_client_ca" in told) == (1, True)
    code, told = started_with(*data, "--tls-cert", pem)
    assert (code, "both or neither" in told) == (2, True)


def test_half_a_pair_is_refused_by_the_client() -> None:
    with pytest.raises(ValueError, match="certificate and key, both or neither"):
        Tls(certificate="c.pem")
