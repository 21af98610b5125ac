"""Start, stop, kill -9: nothing that was acknowledged is lost, and nothing that runs is cut."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import urllib3
from support.server import Server, running_server
from support.streams import BareClient, bulk, local_hash


def register_until_it_dies(server: Server, worker: int, acknowledged: list[str]) -> None:
    for number in range(10_000):
        spec = {"name": f"w{worker}/{number}", "seed": number, "tensors": [{"name": "t", "shape": [2]}]}
        try:
            reply = server.post_json("/v1/models", spec)
        except urllib3.exceptions.HTTPError:
            return
        assert reply.status == 201
        acknowledged.append(str(spec["name"]))


def test_every_acknowledged_model_survives_kill_9(tmp_path: Path) -> None:
    acknowledged: list[str] = []
    with running_server(tmp_path / "data") as server:
        with ThreadPoolExecutor(4) as pool:
            done = [pool.submit(register_until_it_dies, server, worker, acknowledged) for worker in range(4)]
            while len(acknowledged) < 40:
                time.sleep(0.01)
            server.kill()
        assert all(future.exception() is None for future in done)
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


def test_sigterm_lets_a_running_stream_end_and_exits_with_zero(tmp_path: Path) -> None:
    request, digest = bulk(4096, seed=3), hashlib.sha256()
    with running_server(tmp_path / "data") as server:
        with BareClient(server.url, request, receive_buffer=65536) as client:
            for number, data in enumerate(client.read()):
                digest.update(data)
                if number == 3:
                    server.process.send_signal(signal.SIGTERM)
        assert digest.hexdigest() == local_hash(request)
        assert server.process.wait(30) == 0


def test_a_stream_that_never_ends_is_cut_after_the_grace(tmp_path: Path) -> None:
    with (
        running_server(tmp_path / "data", shutdown_seconds=1) as server,
        BareClient(server.url, bulk(1 << 18), receive_buffer=65536) as client,
    ):
        next(client.read())
        assert server.stop() == 0


def test_a_data_folder_that_cannot_be_made_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    command = [sys.executable, "-m", "weightloom", "serve", "--port", "0", "--grpc-port", "0"]
    environment = os.environ | {"WEIGHTLOOM_DATA_DIR": str(tmp_path / "file" / "data")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: the registry")
    assert "Traceback" not in done.stderr
