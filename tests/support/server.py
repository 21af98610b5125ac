"""A real server in its own process, for tests that meet it as a user would."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import urllib3

URL, GRPC_TARGET = r"http://127\.0\.0\.1:\d+", r"(?<=grpc://)127\.0\.0\.1:\d+"
HTTP = urllib3.PoolManager(retries=False, timeout=60)


@dataclass
class Server:
    """A server that runs; ``url`` has no slash at its end, ``grpc_target`` is what gRPC clients take."""

    process: subprocess.Popen[bytes]
    url: str
    grpc_target: str
    data_dir: Path
    log: Path

    def request(self, method: str, path: str, body: bytes | None = None, **headers: str) -> urllib3.BaseHTTPResponse:
        """One request; header names are given with underscores."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return HTTP.request(method, self.url + path, body=body, headers=named)

    def post_json(self, path: str, value: Any, **headers: str) -> urllib3.BaseHTTPResponse:
        """POST a JSON value."""
        return self.request("POST", path, json.dumps(value).encode(), content_type="application/json", **headers)

    def memory(self) -> int:
        """Resident bytes of the process."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) * 1024  # type: ignore[index]

    def cpu_seconds(self) -> float:
        """Processor time that the process has used."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def kill(self) -> None:
        """kill -9."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)


@contextmanager
def running_server(data_dir: Path, **settings: object) -> Iterator[Server]:
    """``weightloom serve`` on free ports, ready; killed at the end if it still runs."""
    log = data_dir.parent / f"{data_dir.name}.log"
    environment = os.environ | {f"WEIGHTLOOM_{name.upper()}": str(value) for name, value in settings.items()}
    command = [sys.executable, "-m", "weightloom", "serve", "--data-dir", str(data_dir), "--port", "0"]
    command += ["--grpc-port", "0"]
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env=environment)
    try:
        url, grpc_target = (_wait_for(text, process, log) for text in (URL, GRPC_TARGET))
        server = Server(process, url, grpc_target, data_dir, log)
        _wait_until_ready(server)
        yield server
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def _wait_for(text: str, process: subprocess.Popen[bytes], log: Path) -> str:
    """The first part of the log that matches the regular expression ``text``."""
    for _ in range(1200):
        if found := re.search(text, log.read_text()):
            return found[0]
        if process.poll() is not None:
            break
        time.sleep(0.05)
    raise AssertionError(f"the server did not start:\n{log.read_text()}")


def _wait_until_ready(server: Server) -> None:
    for _ in range(200):
        if server.request("GET", "/readyz").status == 200:
            return
        time.sleep(0.05)
    raise AssertionError(f"the server is not ready:\n{server.log.read_text()}")
