"""What Ray Serve must be set to, and what is said where it is not; without Ray itself."""

from __future__ import annotations

import pytest
from support.ray_serve import ray_env
from weightloom.engine.keys import Auth
from weightloom.ray.requirements import (
    LEAST_FOR_GRPC,
    REQUIRED,
    check_environment,
    check_grpc_environment,
    check_registry,
    replica_settings,
)
from weightloom.settings import Settings

DEPLOYED = ray_env()


def test_the_file_for_nodes_has_all_that_is_needed_and_nothing_else() -> None:
    check_environment(DEPLOYED)
    check_grpc_environment(DEPLOYED)
    assert DEPLOYED.keys() - {"RAY_SERVE_HAPROXY_RETRY_ON"} == REQUIRED.keys() | LEAST_FOR_GRPC.keys()


@pytest.mark.parametrize("name", REQUIRED)
@pytest.mark.parametrize(("value", "got"), [(None, "got nothing"), ("yes", "got 'yes'")])
def test_a_replica_without_flow_control_is_refused(name: str, value: str | None, got: str) -> None:
    environment = {key: DEPLOYED[key] for key in DEPLOYED if key != name} | ({name: value} if value else {})
    with pytest.raises(ValueError, match=f"{name}: {got}, expected {REQUIRED[name][0]}"):
        check_environment(environment)


@pytest.mark.parametrize("name", LEAST_FOR_GRPC)
@pytest.mark.parametrize("value", ["", "1000", "much"])
def test_grpc_through_a_proxy_that_is_not_tuned_is_refused(name: str, value: str) -> None:
    with pytest.raises(ValueError, match=f"{name}: got {value!r}, expected {LEAST_FOR_GRPC[name]} at least"):
        check_grpc_environment(DEPLOYED | {name: value})
    check_grpc_environment(DEPLOYED | {name: str(LEAST_FOR_GRPC[name] * 2)})


@pytest.mark.parametrize(("replicas", "nodes"), [(2, 1), (1, 2)])
def test_sqlite_is_for_one_replica_on_one_node(replicas: int, nodes: int) -> None:
    check_registry(Settings(), 1, 1)
    check_registry(Settings(registry_url="postgresql://u@h/d"), replicas, nodes)
    with pytest.raises(ValueError, match="WEIGHTLOOM_REGISTRY_URL: got nothing, expected a PostgreSQL database"):
        check_registry(Settings(), replicas, nodes)


def test_a_replica_asks_for_keys_since_ray_listens_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Settings().auth is Auth.IF_ANY
    assert replica_settings().auth is Auth.ON
    monkeypatch.setenv("WEIGHTLOOM_INSECURE_NO_AUTH", "1")
    assert replica_settings().auth is Auth.OFF


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"TLS_CERT": "c.pem", "TLS_KEY": "k.pem"}, "WEIGHTLOOM_TLS_CERT.*end TLS before"),
        ({"WORKERS": "2"}, "WEIGHTLOOM_WORKERS: got 2, expected 1"),
    ],
)
def test_what_ray_does_itself_is_refused(monkeypatch: pytest.MonkeyPatch, values: dict[str, str], message: str) -> None:
    for name, value in values.items():
        monkeypatch.setenv(f"WEIGHTLOOM_{name}", value)
    with pytest.raises(ValueError, match=message):
        replica_settings()
