"""One deployment of the default profile for all tests that need an engine."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from support.compose import PROJECT, Deployment, build_image, deployment, docker


@pytest.fixture(scope="session")
def running() -> Iterator[Deployment]:
    """The image from this tree, and the service healthy; all of it is gone at the end."""
    if "COMPOSE_TEST" not in os.environ:
        pytest.skip("needs a Docker engine: make compose-test")
    build_image()
    with deployment(CPU_LIMIT="1") as started:
        yield started
    for kind in (["ps", "--all"], ["volume", "ls"], ["network", "ls"]):
        left = docker(*kind, "--quiet", "--filter", f"label=com.docker.compose.project={PROJECT}")
        assert left == "", "everything was taken down"
