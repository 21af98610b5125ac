"""The compose files, run by the Docker engine that the environment names (DOCKER_HOST, DOCKER_CONTEXT, or the default).

BUILD_OPTIONS is what that engine's builds need besides, such as --network=host. HAPROXY_IMAGE, POSTGRES_IMAGE and
PROMETHEUS_IMAGE are run where they are set; where not, images that stand in for the official ones are built.
"""

from __future__ import annotations

import json
import os
import shlex
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from support.server import HTTP

ROOT = Path(__file__).parents[2]
IMAGE = "weightloom:compose-test"
PROJECT = f"weightloom-test-{os.getpid()}"
SERVICE = "weightloom"
ALONE, REPLICAS = ("docker-compose.yml",), ("docker-compose.yml", "docker-compose.replicas.yml")
NUMBERS = count()
PATIENCE = 900  # seconds for one command: the first build fetches its packages
DASHBOARD: dict[str, Any] = json.loads((ROOT / "deploy/grafana/dashboards/weightloom.json").read_text())
STAND_INS = ROOT / "tests/compose/images"


@dataclass
class Deployment:
    """What ``docker compose up`` has started; ``url`` has no slash at its end."""

    url: str
    grpc_target: str
    environment: dict[str, str]

    def compose(self, *arguments: str, check: bool = True) -> str:
        """``docker compose …``: what it prints."""
        return docker("compose", *arguments, environment=self.environment, check=check)

    def up(self, *arguments: str) -> None:
        """All services as the files want them, and healthy."""
        self.compose("up", "--detach", "--no-build", "--wait", "--wait-timeout", "120", *arguments)

    def inside(self, script: str, service: str = SERVICE) -> str:
        """What a shell script prints that runs in a service's container, as its user."""
        return self.compose("exec", "-T", service, "sh", "-c", script)

    def containers(self, service: str = SERVICE) -> list[str]:
        """Ids of a service's containers, be they running or not."""
        return self.compose("ps", "--all", "--quiet", service).split()

    def inspect(self, service: str = SERVICE) -> dict[str, Any]:
        """What the engine says about a service's only container, be it running or not."""
        (container,) = self.containers(service)
        return dict(json.loads(docker("inspect", container))[0])

    def ready_code(self) -> int:
        """The status of /readyz."""
        return int(HTTP.request("GET", f"{self.url}/readyz", headers={"connection": "close"}).status)


def docker(*arguments: str, environment: dict[str, str] | None = None, check: bool = True) -> str:
    """``docker …``: what it prints; an AssertionError with its own words where it fails."""
    done = subprocess.run(
        ["docker", *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=PATIENCE
    )
    assert done.returncode == 0 or not check, f"docker {shlex.join(arguments)}:\n{done.stdout}{done.stderr}"
    return done.stdout


def build_image() -> None:
    """The image, from this tree."""
    _build(IMAGE, ".")


def image_of(name: str) -> str:
    """What the environment names to be run as ``name``, or an image that stands in for the official one."""
    named = os.environ.get(f"{name.upper()}_IMAGE")
    if named is None:
        named = f"weightloom-{name}:compose-test"
        _build(named, str(STAND_INS / name))
    return named


def _build(tag: str, folder: str) -> None:
    docker("build", *shlex.split(os.environ.get("BUILD_OPTIONS", "")), "--tag", tag, folder)


@contextmanager
def deployment(files: Sequence[str] = ALONE, **variables: str) -> Iterator[Deployment]:
    """What ``files`` say from nothing, healthy, on free ports; gone with its volumes at the end.

    The files' ``${variables}`` are these alone: a .env of whoever runs the test is not read.
    """
    rest, grpc = free_ports()
    project = f"{PROJECT}-{next(NUMBERS)}"
    named = {"WEIGHTLOOM_IMAGE": IMAGE, "REST_PORT": str(rest), "GRPC_PORT": str(grpc), **variables}
    own = {"COMPOSE_PROJECT_NAME": project, "COMPOSE_FILE": ":".join(files), "COMPOSE_ENV_FILES": os.devnull}
    running = Deployment(f"http://127.0.0.1:{rest}", f"127.0.0.1:{grpc}", os.environ | own | named)
    try:
        running.up()
        yield running
    except BaseException:
        print(running.compose("logs", "--no-color", check=False))  # noqa: T201  # pytest shows it with the failure
        raise
    finally:
        running.compose("--profile", "*", "down", "--volumes", "--timeout", "5")
    for kind in (["ps", "--all"], ["volume", "ls"], ["network", "ls"]):
        left = docker(*kind, "--quiet", "--filter", f"label=com.docker.compose.project={project}")
        assert left == "", "everything was taken down"


def free_ports() -> tuple[int, int]:
    """Two ports that nothing listens on."""
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        return one.getsockname()[1], other.getsockname()[1]
