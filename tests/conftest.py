"""Fixtures for all tests."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings
from support.postgres import Cluster, running_cluster
from support.server import Server, running_server
from weightloom.fabric import Backend, load_backend
from weightloom.fabric.backend import BACKENDS

# Shared machines stall, so nothing has a deadline; CI tries the same examples each time, a developer new ones.
PATIENT = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("default", **PATIENT)
settings.register_profile("ci", derandomize=True, **PATIENT)
settings.load_profile("ci" if os.environ.get("CI") else "default")


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for all tests of a session that leave it as it was."""
    with running_server(tmp_path_factory.mktemp("server") / "data") as running:
        yield running


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """One PostgreSQL for all tests of a session that leave it running; each takes a database of its own."""
    with running_cluster() as running:
        yield running


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> Backend:
    """Each arithmetic in turn: both must give the same bits."""
    return load_backend(request.param)


@pytest.fixture(autouse=True)
def _same_chance() -> None:
    """Every test that uses torch's generator sees the same numbers in each run."""
    if torch := sys.modules.get("torch"):
        torch.manual_seed(0)
