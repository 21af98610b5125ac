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
        return socket.create_connection((parts.hostname, parts.port), 30)

    def workers(self) -> list[int]:
        """Ids of the processes that serve."""
        main = self.process.pid
        return list(map(int, Path(f"/proc/{main}/task/{main}/children").read_text().split())) or [main]

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
        workers = self.workers()
        self.process.kill()
        for pid in workers:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()
        wait_until(lambda: not any(map(is_running, workers)))

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)


@contextmanager
def running_server(
    data_dir: Path, *, workers: int = 1, port: int = 0, http: urllib3.PoolManager = HTTP, **settings: object
) -> Iterator[Server]:
    """``weightloom serve`` on free ports, ready, its ``workers`` started; killed at the end if it still runs."""
    log = data_dir.parent / f"{data_dir.name}.log"
    named = {"workers": workers, **settings}
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


def is_running(pid: int) -> bool:
    """Whether there is such a process, and it is no mere zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until(is_so: Callable[[], object]) -> None:
    """Ask again and again, for a minute at most."""
    for _ in range(1200):
        if is_so():
            return
        time.sleep(0.05)
    raise AssertionError("what was waited for did not come")


def _wait_for(text: str, process: subprocess.Popen[bytes], log: Path) -> str:
    """The first part of the log that matches the regular expression ``text``."""
    for _ in range(1200):
        if found := re.search(text, log.read_text()):
            return found[found.re.groups]
        if process.poll() is not None:
            break
        time.sleep(0.05)
    raise AssertionError(f"the server did not start:\n{log.read_text()}")


def _wait_until_ready(server: Server, workers: int) -> None:
    wait_until(lambda: server.request("GET", "/readyz").status == 200 and len(server.workers()) == workers)
