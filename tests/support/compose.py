"""The compose files, run by the Docker engine that the environment names (DOCKER_HOST, DOCKER_CONTEXT, or the default).

BUILD_OPTIONS is what that engine's builds need besides, such as --network=host.
"""

from __future__ import annotations

import json
import os
import shlex
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support.server import HTTP

ROOT = Path(__file__).parents[2]
IMAGE = "weightloom:compose-test"
PROJECT = f"weightloom-test-{os.getpid()}"
SERVICE = "weightloom"


@dataclass
class Deployment:
    """What ``docker compose up`` has started; ``url`` has no slash at its end."""

    url: str
    grpc_target: str
    environment: dict[str, str]

    def compose(self, *arguments: str, check: bool = True) -> str:
        """``docker compose …``: what it prints."""
        return docker("compose", *arguments, environment=self.environment, check=check)

    def inside(self, script: str) -> str:
        """What a shell script prints that runs in the server's container, as the server's user."""
        return self.compose("exec", "-T", SERVICE, "sh", "-c", script)

    def inspect(self) -> dict[str, Any]:
        """What the engine says about the server's container, be it running or not."""
        container = self.compose("ps", "--all", "--quiet", SERVICE).strip()
        return dict(json.loads(docker("inspect", container))[0])

    def ready_code(self) -> int:
        """The status of /readyz."""
        return int(HTTP.request("GET", f"{self.url}/readyz", headers={"connection": "close"}).status)


def docker(*arguments: str, environment: dict[str, str] | None = None, check: bool = True) -> str:
    """``docker …``: what it prints; an AssertionError with its own words where it fails."""
    done = subprocess.run(
        ["docker", *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0 or not check, f"docker {shlex.join(arguments)}:\n{done.stdout}{done.stderr}"
    return done.stdout


def build_image() -> None:
    """The image, from this tree."""
    docker("build", *shlex.split(os.environ.get("BUILD_OPTIONS", "")), "--tag", IMAGE, ".")


@contextmanager
def deployment(**variables: str) -> Iterator[Deployment]:
    """The default profile from nothing, healthy, on free ports; gone with its volumes at the end.

    The files' ``${variables}`` are these alone: a .env of whoever runs the test is not read.
    """
    rest, grpc = free_ports()
    named = {"WEIGHTLOOM_IMAGE": IMAGE, "REST_PORT": str(rest), "GRPC_PORT": str(grpc), **variables}
    own = {"COMPOSE_PROJECT_NAME": PROJECT, "COMPOSE_FILE": "docker-compose.yml", "COMPOSE_ENV_FILES": os.devnull}
    running = Deployment(f"http://127.0.0.1:{rest}", f"127.0.0.1:{grpc}", os.environ | own | named)
    try:
        running.compose("up", "--detach", "--no-build", "--wait", "--wait-timeout", "120")
        yield running
    except BaseException:
        print(running.compose("logs", "--no-color", check=False))  # noqa: T201  # pytest shows it with the failure
        raise
    finally:
        running.compose("down", "--volumes", "--timeout", "5")


def free_ports() -> tuple[int, int]:
    """Two ports that nothing listens on."""
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        return one.getsockname()[1], other.getsockname()[1]
