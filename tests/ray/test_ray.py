"""Ray Serve for real, in a namespace: the short form, and with RAY_TEST=long (``make ray-test``) all of it."""

from __future__ import annotations

import os

import pytest
from support.ray_serve import run_inside


@pytest.mark.timeout(1200)
def test_one_node() -> None:
    run_inside("test_one_node.py")


@pytest.mark.skipif(os.environ.get("RAY_TEST") != "long", reason="minutes; RAY_TEST=long (make ray-test) runs it")
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("file", ["test_contract.py", "test_keys.py", "test_faults.py", "test_cluster.py"])
def test_long(file: str) -> None:
    run_inside(file)
