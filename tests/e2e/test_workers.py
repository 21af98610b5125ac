"""Several processes on one port: one service."""

from __future__ import annotations

import hashlib
import itertools
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from support.server import SECONDS, Server, is_running, running_server, wait_until
from support.streams import BareClient, bulk, local_hash
from weightloom.supervisor import delay_after

SPEC = {"name": "workers/one", "seed": 4, "tensors": [{"name": "t", "shape": [64, 64], "l": 4}]}
REQUEST = {"w": {"t": [1.0, -0.5, 0.25, 2.0]}}


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Server]:
    with running_server(tmp_path / "data", workers=2) as server:
        wait_until(lambda: len(answers(server, {"seed": 4, "tensors": SPEC["tensors"]} | REQUEST, 4)) == 2)
        yield server


def answers(server: Server, request: dict[str, Any], times: int) -> dict[str, tuple[int, bytes]]:
    """What each process answered, by the part of the request ids that is its own."""
    replies = [server.post_json("/fabricate", request, connection="close") for _ in range(times)]
    return {reply.headers["x-request-id"].partition("-")[0]: (reply.status, reply.data) for reply in replies}


def answers_of_both(server: Server, request: dict[str, Any]) -> list[tuple[int, bytes]]:
    seen: dict[str, tuple[int, bytes]] = {}

    def both() -> bool:
        seen.update(answers(server, request, 4))
        return len(seen) == 2

    wait_until(both)
    return list(seen.values())


def test_a_model_is_known_to_all_workers_at_once_and_made_of_the_same_bytes(pair: Server) -> None:
    assert pair.post_json("/v1/models", SPEC, connection="close").status == 201
    by_name = answers_of_both(pair, {"model": SPEC["name"]} | REQUEST)
    inline = answers_of_both(pair, {"name": SPEC["name"], "seed": 4, "tensors": SPEC["tensors"]} | REQUEST)
    assert {status for status, _ in by_name} == {200}
    assert len({data for _, data in by_name + inline}) == 1
    assert pair.request("DELETE", "/v1/models/workers/one", connection="close").status == 204
    assert {status for status, _ in answers_of_both(pair, {"model": SPEC["name"]} | REQUEST)} == {404}


def test_a_worker_that_dies_is_replaced_and_the_other_one_goes_on(pair: Server) -> None:
    request = bulk(4096, seed=12)
    with BareClient(pair.url, request, receive_buffer=65536) as client:
        victim = next(pid for pid in pair.workers() if not has_stream(pid, client))
        os.kill(victim, signal.SIGKILL)
        wait_until(lambda: len(pair.workers()) == 2 and victim not in pair.workers())
        assert client.sha256() == local_hash(request)
    told = f"worker {victim} was ended by SIGKILL (out of memory?); another one takes its place in"
    wait_until(lambda: told in log_of(pair))
    assert {status for status, _ in answers_of_both(pair, bulk(64))} == {200}
    assert pair.stop() == 0


def has_stream(pid: int, client: BareClient) -> bool:
    """Whether a process holds the server's end of a connection."""
    ends = [f":{client.socket.getpeername()[1]:04X}", f":{client.socket.getsockname()[1]:04X}"]
    rows = map(str.split, Path("/proc/net/tcp").read_text().splitlines()[1:])
    (inode,) = (row[9] for row in rows if [row[1][-5:], row[2][-5:]] == ends)
    return any(target_of(link) == f"socket:[{inode}]" for link in Path(f"/proc/{pid}/fd").iterdir())


def target_of(link: Path) -> str:
    """An empty one where it has gone meanwhile."""
    try:
        return str(link.readlink())
    except OSError:
        return ""


def log_of(server: Server) -> str:
    return server.log.read_text()


def test_deaths_in_a_row_are_answered_ever_more_slowly() -> None:
    delays = list(itertools.accumulate([5.0] * 7, lambda delay, lived: delay_after(lived, delay), initial=0))
    assert delays == [0, 1, 2, 4, 8, 16, 30, 30]
    assert delay_after(3600, 30) == 0


def test_workers_do_not_outlive_their_supervisor_but_finish_their_streams(pair: Server) -> None:
    workers, request = pair.workers(), bulk(4096, seed=13)
    with BareClient(pair.url, request, receive_buffer=65536) as client:
        pair.process.kill()
        assert client.sha256() == local_hash(request)
    wait_until(lambda: not any(map(is_running, workers)))


def test_a_worker_that_is_told_to_stop_finishes_its_stream_and_is_replaced(pair: Server) -> None:
    request, digest = bulk(4096, seed=14), hashlib.sha256()
    with BareClient(pair.url, request, receive_buffer=65536) as client:
        for number, data in enumerate(client.read()):
            digest.update(data)
            if number == 3:
                for pid in pair.workers():
                    os.kill(pid, signal.SIGTERM)
    assert digest.hexdigest() == local_hash(request)
    wait_until(lambda: log_of(pair).count("ended with exit code 0; another one takes its place") == 2)
    wait_until(lambda: pair.request("GET", "/readyz", connection="close").status == 200)


def test_a_group_that_gets_the_signal_as_a_whole_drains_all_the_same(pair: Server) -> None:
    """As systemd does it: the supervisor and each worker."""
    request = bulk(4096, seed=15)
    with BareClient(pair.url, request, receive_buffer=65536) as client:
        for pid in (pair.process.pid, *pair.workers()):
            with suppress(ProcessLookupError):  # the supervisor has ended it already: it had no stream
                os.kill(pid, signal.SIGTERM)
        assert client.sha256() == local_hash(request)
    assert pair.exit_code() == 0


def test_ctrl_c_while_workers_start_is_a_quiet_end(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "weightloom",
        "serve",
        "--workers",
        "2",
        "--port",
        "0",
        "--grpc-port",
        "0",
        "--data-dir",
        str(tmp_path),
    ]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, start_new_session=True)
    assert process.stderr is not None
    try:
        assert any(b"makes the known answer" in line for line in process.stderr), "a worker starts"
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        _, told = process.communicate(timeout=SECONDS)
    finally:
        process.kill()
    assert process.returncode == 128 + signal.SIGINT
    assert b"Traceback" not in told


def test_workers_count_into_one_folder_that_goes_with_the_server(pair: Server) -> None:
    variables = [Path(f"/proc/{pid}/environ").read_text().split("\0") for pid in pair.workers()]
    folders = {line for lines in variables for line in lines if line.startswith("PROMETHEUS_MULTIPROC_DIR=")}
    (folder,) = (Path(line.partition("=")[2]) for line in folders)
    assert folder.is_dir()
    assert pair.stop() == 0
    assert not folder.exists()


def test_cores_are_shared_out_and_lines_name_their_process(pair: Server) -> None:
    limits = pair.request("GET", "/v1/info").json()["limits"]
    assert (limits["workers"], limits["threads"]) == (2, max(1, len(os.sched_getaffinity(0)) // 2))
    wait_until(lambda: {pair.process.pid, *pair.workers()} <= logged_by(pair))


def logged_by(server: Server) -> set[int]:
    return {int(pid) for pid in re.findall(r" INFO \S+ \[(\d+) ", log_of(server))}
