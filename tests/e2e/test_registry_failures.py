"""Disks that are full, files that are locked, read-only or gone: told clearly, and no stream suffers."""

from __future__ import annotations

import os
import resource
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support.server import Server, running_server, wait_until

both = pytest.mark.parametrize("workers", [1, 2])
FILE = "registry.sqlite3"


def spec(name: str, tensors: int = 1) -> dict[str, Any]:
    return {"name": name, "seed": 1, "tensors": [{"name": f"t{i}", "shape": [8], "l": 2} for i in range(tensors)]}


def create(server: Server, name: str, tensors: int = 1) -> tuple[int, str]:
    """Status, and what went wrong."""
    reply = server.post_json("/v1/models", spec(name, tensors), connection="close")
    assert reply.status != 503 or reply.json()["code"] == "registry_unavailable"
    return reply.status, str(reply.json().get("detail"))


def ready(server: Server) -> tuple[int, dict[str, str]]:
    reply = server.request("GET", "/readyz", connection="close")
    return reply.status, reply.json()


def serves_known(server: Server) -> bool:
    """Whether the model that was there before the trouble can still be made."""
    reply = server.post_json("/fabricate", {"model": "known", "w": {"t0": [1, 2]}}, connection="close")
    return reply.status == 200


@contextmanager
def server_with_a_model(data_dir: Path, workers: int = 1) -> Iterator[Server]:
    with running_server(data_dir, workers=workers) as server:
        assert create(server, "known")[0] == 201
        yield server


def assert_only_reads(server: Server, why: str) -> str:
    """Also which worker was asked to write, as the ids of its requests begin."""
    reply = server.post_json("/v1/models", spec("refused", 100), connection="close")
    assert (reply.status, why in reply.json()["detail"]) == (503, True), reply.data
    gone = server.request("DELETE", "/v1/models/known", connection="close")
    assert (gone.status, gone.json()["code"]) == (503, "registry_unavailable")
    assert serves_known(server)
    return reply.headers["x-request-id"].partition("-")[0]


def assert_ready_but_cannot_write(server: Server, why: str) -> None:
    status, body = ready(server)
    assert (status, body["status"]) == (200, "ready")
    assert body["registry"].startswith("cannot be written: ")
    assert why in body["registry"]


@both
def test_a_disk_that_takes_no_more(tmp_path: Path, workers: int) -> None:
    with server_with_a_model(tmp_path / "data", workers=workers) as server:
        size = (tmp_path / "data" / f"{FILE}-wal").stat().st_size
        for pid in server.workers():
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
        why, refusing = "cannot be written: disk I/O error; its disk fails, is full or over a quota", set[str]()
        wait_until(lambda: refusing.add(assert_only_reads(server, why)) or len(refusing) == workers)
        assert_ready_but_cannot_write(server, "is full or over a quota")
        for pid in server.workers():
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        for _ in range(2 * workers):
            assert ready(server) == (200, {"status": "ready"})
        assert create(server, "later")[0] == 201
        server.kill()
    with running_server(tmp_path / "data") as again:
        found = [again.request("GET", f"/v1/models/{name}").status for name in ("known", "later", "refused")]
    assert found == [200, 200, 404]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one MiB, where this user may make one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    if not shutil.which("mount") or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("no file system can be mounted here")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_a_full_disk(small_disk: Path) -> None:
    filler = small_disk / "filler"
    with server_with_a_model(small_disk / "data") as server:
        with pytest.raises(OSError, match="No space left"):
            filler.write_bytes(bytes(1 << 20))
        assert_only_reads(server, "cannot be written: database or disk is full; free some space on its disk")
        assert_ready_but_cannot_write(server, "free some space on its disk")
        filler.unlink()
        assert ready(server) == (200, {"status": "ready"})
        assert create(server, "later")[0] == 201


@contextmanager
def read_only(file: Path) -> Iterator[None]:
    """A file that this very user may not write to."""
    command = ["chattr", "+i"] if os.geteuid() == 0 else ["chmod", "a-w"]
    if not shutil.which(command[0]) or subprocess.run([*command, file], capture_output=True, check=False).returncode:
        pytest.skip("files cannot be protected from this user here")
    try:
        yield
    finally:
        subprocess.run([command[0], {"+i": "-i", "a-w": "u+w"}[command[1]], file], check=True)


def test_a_database_that_may_only_be_read(tmp_path: Path) -> None:
    with server_with_a_model(tmp_path / "data") as server:
        assert server.stop() == 0
    with read_only(tmp_path / "data" / FILE), running_server(tmp_path / "data") as server:
        assert_ready_but_cannot_write(server, "attempt to write a readonly database; make the file and its folder")
        assert_only_reads(server, "cannot be written: attempt to write a readonly database")


@both
def test_a_lock_of_another_program(tmp_path: Path, workers: int) -> None:
    with server_with_a_model(tmp_path / "data", workers=workers) as server:
        other = sqlite3.connect(tmp_path / "data" / FILE, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with ThreadPoolExecutor(12) as pool:
            waiting = [pool.submit(create, server, f"waits/{i}") for i in range(12)]
            assert ready(server) == (200, {"status": "ready"}), "that somebody writes is no failure"
            assert serves_known(server)
            assert not any(future.done() for future in waiting), "neither waited for the lock"
            outcomes = [future.result() for future in waiting]
        assert {status for status, _ in outcomes} == {503}
        assert all("another program holds a lock on it" in why or "is busy" in why for _, why in outcomes), outcomes
        if workers == 1:
            assert_ready_but_cannot_write(server, "database is locked")
        other.execute("ROLLBACK")
        other.close()
        assert create(server, "later")[0] == 201
        assert ready(server) == (200, {"status": "ready"})


@both
def test_a_data_folder_that_goes_and_comes_back(tmp_path: Path, workers: int) -> None:
    data, elsewhere = tmp_path / "data", tmp_path / "elsewhere"
    with server_with_a_model(data, workers=workers) as server:
        data.rename(elsewhere)
        assert_only_reads(server, "was removed or replaced while the server runs; put it back, or restart the server")
        status, body = ready(server)
        assert (status, body["code"]) == (503, "registry_unavailable")
        assert "removed or replaced" in body["detail"]
        assert server.request("GET", "/healthz").status == 200
        elsewhere.rename(data)
        assert ready(server) == (200, {"status": "ready"})
        assert create(server, "later")[0] == 201


def test_a_data_folder_that_is_another_one_now(tmp_path: Path) -> None:
    with server_with_a_model(tmp_path / "data") as server:
        (tmp_path / "data").rename(tmp_path / "elsewhere")
        with running_server(tmp_path / "data") as another:
            assert create(another, "there")[0] == 201
            assert_only_reads(server, "was removed or replaced")
            assert ready(server)[0] == 503
            assert another.request("GET", "/v1/models/refused").status == 404
