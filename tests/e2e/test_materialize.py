"""``weightloom materialize`` as a user runs it: killed, stopped, started twice, with bad rows, to a URL, and on Ray."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from support.server import Server, is_running, wait_until
from support.tables import SPEC, row, w_of, write_lines

SLOW = {"name": "slow", "seed": 1, "tensors": [{"name": "a", "shape": [128, 128], "l": 4, "r": 512}]}
ITEMS = 600


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "weightloom", "materialize", *map(str, arguments)]


def run(*arguments: object, exit_code: int = 0, folder: Path | None = None, **environment: str) -> str:
    """What it says."""
    done = subprocess.run(
        command(*arguments), capture_output=True, text=True, check=False, cwd=folder, env=os.environ | environment
    )
    assert done.returncode == exit_code, done.stdout + done.stderr
    return done.stderr


@contextmanager
def running(*arguments: object) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(command(*arguments), stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Some hundred files that take a second or two."""
    (tmp_path / "slow.json").write_text(json.dumps(SLOW))
    lines = ({"file": f"{i % 3}/{i}.safetensors", "model": "slow", "w": {"a": w_of(i)["a"]}} for i in range(ITEMS))
    return write_lines(tmp_path / "table.jsonl", lines)


def files_in(target: Path) -> dict[str, tuple[int, int]]:
    """Inode and time of change of all files that were made."""
    found = (path for path in target.glob("[0-9]*/*") if path.is_file())
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in found}


@contextmanager
def endless(table: Path) -> Iterator[Path]:
    """A table of the same rows whose end does not come while the context is open: no run is done before that, however
    long it takes until somebody looks. The rows that would come with the end (a batch has 256) are not made before.
    """
    pipe = table.with_name("endless.jsonl")
    os.mkfifo(pipe)
    descriptor = os.open(pipe, os.O_RDWR)  # does not wait for a reader
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, 1 << 20)
        with memoryview(table.read_bytes()) as rows:
            assert os.write(descriptor, rows) == len(rows)
        yield pipe
    finally:
        os.close(descriptor)
        pipe.unlink()


def stop_half_way(table: Path, target: Path, number: int) -> str:
    """Send it a signal when a part of the files is there, and wait until all of its processes are gone."""
    options = ("-m", table.with_name("slow.json"), "--processes", 2)
    with ExitStack() as stack:
        with endless(table) as rows:
            process = stack.enter_context(running(rows, target, *options))
            wait_until(lambda: len(files_in(target)) >= ITEMS // 6)
            workers = children(process.pid)
            process.send_signal(number)
        said = process.communicate()[1]
        wait_until(lambda: not any(map(is_running, workers)))
        assert process.returncode in {-number, 128 + number}
    return said


def test_killed_half_way_and_started_again_nothing_is_made_twice_or_missing(
    table: Path, server: Server, tmp_path: Path
) -> None:
    target = tmp_path / "out"
    stop_half_way(table, target, signal.SIGKILL)
    before = files_in(target)
    assert ITEMS // 6 <= len(before) < ITEMS
    said = run(table, target, "-m", tmp_path / "slow.json", "--processes", 2)
    assert f"{ITEMS - len(before):,} made" in said
    assert f"{len(before):,} kept" in said
    after = files_in(target)
    assert len(after) == ITEMS
    assert {name: after[name] for name in before} == before
    assert list((target / ".weightloom/parts").iterdir()) == []
    for i in range(0, ITEMS, 37):
        reply = server.post_json("/fabricate", SLOW | {"w": {"a": w_of(i)["a"]}})
        assert (target / f"{i % 3}/{i}.safetensors").read_bytes() == reply.data
    assert f"0 made (0 bytes, 0 items/s), {ITEMS:,} kept" in run(table, target, "-m", tmp_path / "slow.json")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_ends_in_order_and_the_next_run_goes_on(number: int, table: Path, tmp_path: Path) -> None:
    target = tmp_path / "out"
    said = stop_half_way(table, target, number)
    assert "the same command goes on from here" in said
    assert "Traceback" not in said
    before = len(files_in(target))
    assert f"{before:,} made" in said
    assert f"{ITEMS - before:,} made" in run(table, target, "-m", tmp_path / "slow.json")


def test_ctrl_c_while_workers_begin_is_no_traceback(table: Path, tmp_path: Path) -> None:
    arguments = table, tmp_path / "out", "-m", tmp_path / "slow.json", "--processes", 1
    with subprocess.Popen(command(*arguments), stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        wait_until(lambda: len(children(process.pid)) == 2)  # the worker, and what multiprocessing has beside it
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        said = process.communicate()[1]
    assert process.returncode == 128 + signal.SIGINT
    assert "Traceback" not in said


def test_two_runs_at_once_do_not_write_to_one_target(table: Path, tmp_path: Path) -> None:
    target = tmp_path / "out"
    with endless(table) as rows, running(rows, target, "-m", tmp_path / "slow.json", "--processes", 1):
        wait_until(lambda: files_in(target))
        said = run(table, target, "-m", tmp_path / "slow.json", exit_code=1)
    assert "another run has this target" in said


def test_a_worker_that_is_killed_costs_nothing(table: Path, tmp_path: Path) -> None:
    target = tmp_path / "out"
    options = ("-m", tmp_path / "slow.json", "--processes", 2)
    with ExitStack() as stack:
        with endless(table) as rows:
            process = stack.enter_context(running(rows, target, *options))
            wait_until(lambda: files_in(target))
            os.kill(children(process.pid)[-1], signal.SIGKILL)
        said = process.communicate()[1]
    assert process.returncode == 0, said
    assert len(files_in(target)) == ITEMS


def test_bad_rows_are_reported_and_the_others_are_made(server: Server, tmp_path: Path) -> None:
    lines: list[Any] = [row(i) for i in range(1, 9)]
    lines[2] = "no JSON"
    lines[4]["w"]["a"] = [1.0]
    lines[6]["file"] = "v/1.safetensors"
    path = write_lines(tmp_path / "table.jsonl", [*lines, row(9, model="nobody"), row(10, file="../x")])
    (tmp_path / "spec.json").write_text(json.dumps(SPEC))
    said = run(path, tmp_path / "out", "--model", tmp_path / "spec.json", "--data-dir", tmp_path, exit_code=1)
    assert "5 made" in said
    assert "5 failed" in said
    failed = [json.loads(line) for line in (tmp_path / "out/.weightloom/failed.jsonl").read_text().splitlines()]
    assert {(one["row"], one["code"]) for one in failed} == {
        (3, "malformed_json"), (5, "w_wrong_length"), (7, "invalid_request"), (9, "model_not_found"),
        (10, "invalid_request"),
    }  # fmt: skip
    reply = server.post_json("/fabricate", SPEC | {"w": w_of(8)})
    assert (tmp_path / "out/v/8.safetensors").read_bytes() == reply.data
    write_lines(path, [row(i) for i in range(1, 9)])
    assert "3 made" in run(path, tmp_path / "out", "--model", tmp_path / "spec.json")
    assert not (tmp_path / "out/.weightloom/failed.jsonl").exists()
    write_lines(path, [row(1, w=w_of(100)), *(row(i) for i in range(2, 9))])
    assert ": 1 made (" in (said := run(path, tmp_path / "out", "--model", tmp_path / "spec.json"))
    assert "7 kept" in said


def test_a_target_that_takes_nothing_any_more_ends_the_run(tmp_path: Path) -> None:
    (tmp_path / "spec.json").write_text(json.dumps(SPEC))
    (tmp_path / "out").mkdir()
    (tmp_path / "out/v").touch()  # where the folder of all files should be
    path = write_lines(
        tmp_path / "table.jsonl", [row(0, file="first"), *({**row(0), "file": f"v/{i}"} for i in range(2000))]
    )
    said = run(path, tmp_path / "out", "-m", tmp_path / "spec.json", exit_code=1)
    assert "the target takes nothing any more" in said
    assert "Not a directory" in said or "File exists" in said
    assert (tmp_path / "out/first").exists()


def test_models_come_from_a_server_or_a_registry(server: Server, tmp_path: Path) -> None:
    server.post_json("/v1/models", SPEC)
    path = write_lines(tmp_path / "table.jsonl", [row(1), row(2), row(3, model="nobody")])
    try:
        assert "1 failed" in run(path, tmp_path / "a", "--url", server.url, exit_code=1)
    finally:
        server.request("DELETE", "/v1/models/demo")
    (tmp_path / "spec.json").write_text(json.dumps(SPEC))
    create = [sys.executable, "-m", "weightloom", "models", "create", "spec.json"]
    subprocess.run(create, check=True, cwd=tmp_path, capture_output=True)
    assert "1 failed" in run(path, tmp_path / "b", folder=tmp_path, exit_code=1)
    for target in "ab":
        assert '"code": "model_not_found"' in (tmp_path / target / ".weightloom/failed.jsonl").read_text()
    made = [(tmp_path / target / "v/2.safetensors").read_bytes() for target in "ab"]
    assert made[0] == made[1]


def test_a_url_gets_the_same_files_and_goes_on_too(table: Path, tmp_path: Path) -> None:
    target, options = f"local://{tmp_path}/remote", ("-m", table.with_name("slow.json"), "--processes", 1)
    run(write_lines(tmp_path / "some.jsonl", table.read_text().splitlines()[:20]), tmp_path / "out", *options)
    said = run(tmp_path / "some.jsonl", target, *options, "--state", tmp_path / "state")
    assert "20 made" in said
    for path in (tmp_path / "out").glob("[0-9]/*"):
        assert (tmp_path / "remote" / path.relative_to(tmp_path / "out")).read_bytes() == path.read_bytes()
    before = files_in(tmp_path / "remote")
    assert "20 kept" in run(tmp_path / "some.jsonl", target, *options, "--state", tmp_path / "state")
    shutil.rmtree(tmp_path / "state")
    assert "20 kept" in run(tmp_path / "some.jsonl", target, *options, "--state", tmp_path / "state")
    assert files_in(tmp_path / "remote") == before


@pytest.mark.parametrize(
    ("arguments", "exit_code", "told"),
    [
        (("no.jsonl", "out"), 1, "no.jsonl"),
        (("no.csv", "out"), 1, ".parquet"),
        (("t.jsonl", "out", "--state", "x"), 1, "state"),
        (("t.jsonl", "nosuch://x"), 1, "nosuch"),
        (("t.jsonl", "t.jsonl"), 1, "t.jsonl"),
        (("t.jsonl", "out", "--processes", "0"), 2, "--processes"),
        (("t.jsonl", "out", "--ray", "non:sense"), 1, "a cluster that can be reached"),
        (("t.jsonl",), 2, "target"),
    ],
)
def test_what_is_wrong_with_the_command_is_told(
    arguments: tuple[str, ...], exit_code: int, told: str, tmp_path: Path
) -> None:
    write_lines(tmp_path / "t.jsonl", [])
    said = run(*arguments, exit_code=exit_code, folder=tmp_path, COLUMNS="200")
    assert told in said
    assert "Traceback" not in said
