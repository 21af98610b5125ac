"""What must be so before anything is served on Ray. Every complaint names the setting, what it is, and what to set."""

from __future__ import annotations

from collections.abc import Mapping

from weightloom.settings import Settings

__all__ = ["check_environment", "check_grpc_environment", "check_registry", "replica_settings"]

ALL_INTERFACES = "0.0.0.0"  # where Ray listens in this mode, whatever it is told
# Ray Serve's own variables, their only right value, and why.
REQUIRED = {
    "RAY_SERVE_ENABLE_HA_PROXY": ("1", "Ray's Python proxy sends bulk at an eighth of the speed"),
    "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": ("0", "otherwise a slow reader's whole file is made into memory"),
}
# And their least values, for gRPC through HAProxy; its defaults leave a fifth of the speed.
LEAST_FOR_GRPC = {
    "RAY_SERVE_HAPROXY_TUNE_BUFSIZE": 262144,
    "RAY_SERVE_HAPROXY_H2_MAX_FRAME_SIZE": 131072,
    "RAY_SERVE_HAPROXY_H2_BE_INITIAL_WINDOW_SIZE": 8388608,
    "RAY_SERVE_HAPROXY_H2_FE_INITIAL_WINDOW_SIZE": 8388608,
}
EVERYWHERE = "set it on every node before Ray starts there (deploy/ray/ray.env has all of them)"


def check_environment(environment: Mapping[str, str]) -> None:
    """Raise ValueError where Ray Serve would run without flow control, or by the slow proxy."""
    for name, (value, why) in REQUIRED.items():
        if environment.get(name) != value:
            raise ValueError(f"{name}: got {_shown(environment, name)}, expected {value}: {why}; {EVERYWHERE}")


def check_grpc_environment(environment: Mapping[str, str]) -> None:
    """Raise ValueError where gRPC through HAProxy would be slow."""
    for name, least in LEAST_FOR_GRPC.items():
        value = environment.get(name, "")
        if not value.isdecimal() or int(value) < least:
            got = _shown(environment, name)
            raise ValueError(f"{name}: got {got}, expected {least} at least, which gRPC needs; {EVERYWHERE}")


def check_registry(settings: Settings, replicas: int, nodes: int) -> None:
    """Raise ValueError where several replicas, or one that may be started on any of several nodes, had SQLite."""
    if settings.registry_url is None and max(replicas, nodes) > 1:
        expected = f"a PostgreSQL database, with {replicas} replicas on {nodes} nodes: SQLite is one machine's, for one"
        raise ValueError(f"WEIGHTLOOM_REGISTRY_URL: got nothing, expected {expected}")


def replica_settings() -> Settings:
    """The settings of a replica, from its environment. Raises ValueError for what Ray Serve does instead."""
    settings = Settings()
    if settings.tls_cert is not None or settings.grpc_client_ca is not None:
        raise ValueError("WEIGHTLOOM_TLS_CERT, WEIGHTLOOM_GRPC_CLIENT_CA: got a file, expected nothing: end TLS before")
    if settings.workers > 1:
        got = settings.workers
        raise ValueError(f"WEIGHTLOOM_WORKERS: got {got}, expected 1: Ray starts replicas (max_replicas)")
    return settings.model_copy(update={"host": ALL_INTERFACES})


def _shown(environment: Mapping[str, str], name: str) -> str:
    return repr(environment[name]) if name in environment else "nothing"
