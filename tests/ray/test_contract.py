"""The tests of our own server's contract, at one that Ray Serve runs.

Left out is what is not so there (docs/ray.md): HAProxy reads HTTP before we do (test_http.py) and answers what is none
of it; Ray makes request ids; and a registry or a log that the tests break or read is not where they look.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

CONTRACT = ("fabricate", "factors", "grpc", "models", "service")
pytest.register_assert_rewrite(*(f"contract.test_{name}" for name in CONTRACT))

from contract.test_fabricate import *  # noqa: E402, F403
from contract.test_factors import *  # noqa: E402, F403
from contract.test_grpc import *  # noqa: E402, F403
from contract.test_models import *  # noqa: E402, F403
from contract.test_service import *  # noqa: E402, F403
from support.ray_serve import RayServer, one_node  # noqa: E402

del test_a_request_id_comes_back_with_the_reply_or_the_error  # noqa: F821  (it comes with the trailers)
del test_a_broken_registry_is_unavailable, test_a_broken_registry_is_not_ready_and_says_why  # noqa: F821


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayServer]:
    with one_node(tmp_path_factory.mktemp("ray") / "data", insecure_no_auth=True) as running:
        yield running
