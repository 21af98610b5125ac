"""Start, stop, kill -9: nothing that was acknowledged is lost, and nothing that runs is cut."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import pytest
import urllib3
from support.ports import reserved_port
from support.server import Server, running_server, wait_until
from support.streams import BareClient, bulk, local_hash

both = pytest.mark.parametrize("workers", [1, 2])


def register_until_it_dies(server: Server, worker: int, acknowledged: list[str]) -> None:
    for number in range(10_000):
        spec = {"name": f"w{worker}/{number}", "seed": number, "tensors": [{"name": "t", "shape": [2]}]}
        try:
            reply = server.post_json("/v1/models", spec)
        except urllib3.exceptions.HTTPError:
            return
        if reply.status != 503:  # where the disk is slow its turn does not come
            assert reply.status == 201, reply.data
            acknowledged.append(str(spec["name"]))


@both
def test_every_acknowledged_model_survives_kill_9(tmp_path: Path, workers: int) -> None:
    acknowledged: list[str] = []
    with running_server(tmp_path / "data", workers=workers) as server:
        with ThreadPoolExecutor(4) as pool:
            done = [pool.submit(register_until_it_dies, server, worker, acknowledged) for worker in range(4)]
            try:
                wait_until(lambda: len(acknowledged) >= 40)
            finally:
                server.kill()
        for future in done:
            future.result()
    with running_server(tmp_path / "data") as again:
        for name in acknowledged:
            assert again.request("GET", f"/v1/models/{name}").status == 200, name


def test_a_cut_stream_goes_on_at_its_byte_on_another_server(tmp_path: Path) -> None:
    request, parts = bulk(3000, seed=9), []
    with running_server(tmp_path / "first") as server:
        with BareClient(server.url, request, receive_buffer=65536) as client:
            parts += islice(client.read(), 200)
        server.kill()
    length = sum(map(len, parts))
    with running_server(tmp_path / "second") as another:
        rest = another.post_json("/fabricate", request | {"offset": length}, if_match=client.headers["etag"])
        assert (rest.status, len(rest.data)) == (206, client.length - length)
    assert hashlib.sha256(b"".join(parts) + rest.data).hexdigest() == local_hash(request)


def code_of(server: Server, method: str, path: str, body: bytes | None = None) -> str | None:
    """The code of the error that a request over a new connection meets; "ok", or None where none can be had now."""
    try:
        reply = server.request(method, path, body, connection="close")
    except urllib3.exceptions.HTTPError:
        return None
    assert reply.status in (200, 503)
    return "ok" if reply.status == 200 else str(reply.json()["code"])


def fabricate(server: Server) -> str | None:
    return code_of(server, "POST", "/fabricate", json.dumps(bulk(8)).encode())


@both
def test_sigterm_lets_a_running_stream_end_and_exits_with_zero(tmp_path: Path, workers: int) -> None:
    request, digest = bulk(4096, seed=3), hashlib.sha256()
    with running_server(tmp_path / "data", workers=workers) as server:
        with BareClient(server.url, request, receive_buffer=65536) as client:
            for number, data in enumerate(client.read()):
                digest.update(data)
                if number == 3:
                    server.process.send_signal(signal.SIGTERM)
                    wait_until(lambda: code_of(server, "GET", "/readyz") == "draining")
                    wait_until(lambda: code_of(server, "GET", "/readyz?exclude=registry") == "draining")
                    wait_until(lambda: fabricate(server) == "draining")
                    wait_until(lambda: code_of(server, "GET", "/healthz") == "ok")
        assert digest.hexdigest() == local_hash(request)
        assert server.exit_code() == 0


def test_for_a_moment_after_sigterm_requests_are_still_taken(tmp_path: Path) -> None:
    with running_server(tmp_path / "data", drain_seconds=3600, shutdown_seconds=3600) as server:
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: code_of(server, "GET", "/readyz") == "draining")
        assert fabricate(server) == "ok"


def test_the_moment_after_sigterm_has_an_end(tmp_path: Path) -> None:
    with running_server(tmp_path / "data", drain_seconds=1, shutdown_seconds=3600) as server:
        assert server.stop() == 0


@contextmanager
def endless_stream(server: Server) -> Iterator[BareClient]:
    with BareClient(server.url, bulk(1 << 18), receive_buffer=65536) as client:
        next(client.read())
        yield client


@both
def test_a_stream_that_never_ends_is_cut_after_the_grace(tmp_path: Path, workers: int) -> None:
    with (
        running_server(tmp_path / "data", shutdown_seconds=1, workers=workers) as server,
        endless_stream(server),
    ):
        assert server.stop() == 0
        assert "Traceback" not in server.log.read_text()


@both
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_at_once(tmp_path: Path, workers: int, number: signal.Signals) -> None:
    with running_server(tmp_path / "data", shutdown_seconds=3600, workers=workers) as server, endless_stream(server):
        server.process.send_signal(number)
        wait_until(lambda: code_of(server, "GET", "/readyz") == "draining")
        server.process.send_signal(number)
        assert server.exit_code() == 128 + number


def start_in_vain(**settings: object) -> str:
    """What a server that cannot start says."""
    named = {"port": 0, "grpc_port": 0, **settings}
    environment = os.environ | {f"WEIGHTLOOM_{name.upper()}": str(value) for name, value in named.items()}
    command = [sys.executable, "-m", "weightloom", "serve", "--log-level", "warning"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr


@both
def test_a_data_folder_that_cannot_be_made_is_told_in_one_line(tmp_path: Path, workers: int) -> None:
    (tmp_path / "file").write_text("")
    told = start_in_vain(data_dir=tmp_path / "file" / "data", workers=workers, port=0)
    assert told.startswith("error: the registry")
    assert "cannot be opened" in told


@both
@pytest.mark.parametrize("setting", ["port", "grpc_port"])
def test_a_port_that_is_taken_is_told_in_one_line(tmp_path: Path, workers: int, setting: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        told = start_in_vain(**{"data_dir": tmp_path, "workers": workers, setting: port})
    assert told == f"error: cannot listen on 127.0.0.1:{port}: Address already in use\n"


@both
def test_a_second_server_never_shares_the_grpc_port_of_the_first(tmp_path: Path, workers: int) -> None:
    with running_server(tmp_path / "first", workers=workers) as server:
        port = server.grpc_target.rpartition(":")[2]
        told = start_in_vain(data_dir=tmp_path / "second", workers=workers, grpc_port=port)
    assert told == f"error: cannot listen on 127.0.0.1:{port}: Address already in use\n"


@both
def test_of_two_servers_that_start_at_once_on_a_port_one_serves(tmp_path: Path, workers: int) -> None:
    with reserved_port() as port, reserved_port() as grpc_port:
        options = ("--port", str(port), "--grpc-port", str(grpc_port), "--workers", str(workers))
        servers = []
        for folder in "ab":
            command = [sys.executable, "-m", "weightloom", "serve", *options, "--data-dir", str(tmp_path / folder)]
            servers.append(subprocess.Popen(command, stderr=subprocess.PIPE))
        try:
            wait_until(lambda: any(server.poll() is not None for server in servers))
            (ended,) = (server for server in servers if server.poll() is not None)
            assert ended.returncode == 1
            assert f"cannot listen on 127.0.0.1:{port}: Address already in use" in ended.communicate()[1].decode()
            wait_until(lambda: reply_code(f"http://127.0.0.1:{port}/readyz") == 200)
        finally:
            for server in servers:
                server.terminate()
                server.communicate(timeout=30)


def reply_code(url: str) -> int:
    try:
        return urllib3.request("GET", url, retries=False, timeout=30).status
    except urllib3.exceptions.HTTPError:
        return 0
