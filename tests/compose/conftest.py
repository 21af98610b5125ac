"""Deployments that tests share, which need a Docker engine: one of the default profile, one of several replicas."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator

import pytest
from support.compose import REPLICAS, Deployment, build_image, deployment, image_of


@pytest.fixture(scope="session")
def image() -> None:
    """The image from this tree."""
    if "COMPOSE_TEST" not in os.environ:
        pytest.skip("needs a Docker engine: make compose-test")
    build_image()


@pytest.fixture(scope="session")
def running(image: None) -> Iterator[Deployment]:
    """The service healthy; all of it is gone at the end."""
    with deployment(CPU_LIMIT="1") as started:
        yield started


@pytest.fixture(scope="session")
def shared_replicas(image: None) -> Iterator[Deployment]:
    """Two replicas, their balancer and database; all of it is gone at the end."""
    images = {f"{name.upper()}_IMAGE": image_of(name) for name in ("haproxy", "postgres", "prometheus")}
    with deployment(REPLICAS, POSTGRES_PASSWORD=secrets.token_hex(24), PROMETHEUS_PORT="0", **images) as started:
        yield started


@pytest.fixture
def replicas(shared_replicas: Deployment) -> Deployment:
    """The same, with two healthy replicas, whatever an earlier test did to them."""
    shared_replicas.up()
    return shared_replicas
