"""A real server in its own process, for tests that meet it as a user would."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import urllib3

URL, GRPC_TARGET = r"https?://[\d.]+:\d+", r"grpcs?://([\d.]+:\d+)"
HTTP = urllib3.PoolManager(retries=False, timeout=60)
SECONDS = 120  # for a server's start and its end: a busy machine takes long


@dataclass
class Server:
    """A server that runs; ``url`` has no slash at its end, ``grpc_target`` is what gRPC clients take."""

    process: subprocess.Popen[bytes]
    url: str
    grpc_target: str
    data_dir: Path
    log: Path
    http: urllib3.PoolManager = HTTP

    def request(self, method: str, path: str, body: bytes | None = None, **headers: str) -> urllib3.BaseHTTPResponse:
        """One request; header names are given with underscores."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.http.request(method, self.url + path, body=body, headers=named)

    def post_json(self, path: str, value: Any, **headers: str) -> urllib3.BaseHTTPResponse:
        """POST a JSON value."""
        return self.request("POST", path, json.dumps(value).encode(), content_type="application/json", **headers)

    def connect(self) -> socket.socket:
        """A connection to the REST front."""
        parts = urlsplit(self.url)
        return socket.create_connection((parts.hostname, parts.port), 60)

    def workers(self) -> list[int]:
        """Ids of the processes that serve."""
        main = self.process.pid
        return children_of(main) or [main]

    def serves(self, worker: int) -> bool:
        """Whether this process has begun to."""
        return f"Started server process [{worker}]" in self.log.read_text()

    def memory(self) -> int:
        """Resident bytes of the processes that serve."""
        texts = [Path(f"/proc/{pid}/status").read_text() for pid in self.workers()]
        return sum(int(re.search(r"VmRSS:\s+(\d+)", text)[1]) * 1024 for text in texts)  # type: ignore[index]

    def cpu_seconds(self) -> float:
        """Processor time that they have used."""
        stats = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in self.workers()]
        return sum(int(fields[11]) + int(fields[12]) for fields in stats) / os.sysconf("SC_CLK_TCK")

    def kill(self) -> None:
        """kill -9, to every process."""
        self.process.send_signal(signal.SIGSTOP)  # or it might start another worker meanwhile
        wait_until(lambda: state_of(self.process.pid) in ("T", "Z", ""))
        workers: list[int] = []
        with suppress(OSError):  # it has just ended
            workers = children_of(self.process.pid)
        self.process.kill()
        for pid in workers:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()
        wait_until(lambda: not any(map(is_running, workers)))

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.exit_code()

    def exit_code(self) -> int:
        """Waits for its end."""
        return self.process.wait(SECONDS)


@contextmanager
def running_server(
    data_dir: Path, *, workers: int = 1, port: int = 0, http: urllib3.PoolManager = HTTP, **settings: object
) -> Iterator[Server]:
    """``weightloom serve`` on free ports, ready, all ``workers`` serving; killed at the end if it still runs."""
    log = data_dir.parent / f"{data_dir.name}.log"
    # A connection that the pool keeps is never closed by the server at the very moment in which it is used again.
    named = {"workers": workers, "keep_alive_seconds": 3600, **settings}
    environment = os.environ | {f"WEIGHTLOOM_{name.upper()}": str(value) for name, value in named.items()}
    command = [sys.executable, "-m", "weightloom", "serve", "--data-dir", str(data_dir), "--port", str(port)]
    command += ["--grpc-port", "0"]
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env=environment)
    try:
        url, grpc_target = (_wait_for(text, process, log) for text in (URL, GRPC_TARGET))
        server = Server(process, url, grpc_target, data_dir, log, http)
        _wait_until_ready(server, workers)
        yield server
    finally:
        if process.poll() is None:
            Server(process, "", "", data_dir, log).kill()


def children_of(pid: int) -> list[int]:
    """Processes that this one has started. Raises OSError where there is none."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_running(pid: int) -> bool:
    """Whether there is such a process, and it is no mere zombie."""
    return state_of(pid) not in ("", "Z")


def state_of(pid: int) -> str:
    """A process's state, by the letter that /proc has for it: "T" is stopped; "" where there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def wait_until(is_so: Callable[[], object], seconds: float = 60) -> None:
    """Ask again and again, for so long at most; at the end once more, for a machine that was busy with other things."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if is_so():
            return
        time.sleep(0.05)
    assert is_so(), "what was waited for did not come"


def _wait_for(text: str, process: subprocess.Popen[bytes], log: Path) -> str:
    """The first part of the log that matches the regular expression ``text``."""
    until = time.monotonic() + SECONDS
    while time.monotonic() < until:
        has_ended = process.poll() is not None
        if found := re.search(text, log.read_text()):
            return found[found.re.groups]
        if has_ended:
            break
        time.sleep(0.05)
    raise AssertionError(f"the server did not start:\n{log.read_text()}")


def _wait_until_ready(server: Server, workers: int) -> None:
    wait_until(lambda: len(server.workers()) == workers and all(map(server.serves, server.workers())), SECONDS)
    wait_until(lambda: server.request("GET", "/readyz").status == 200, SECONDS)
