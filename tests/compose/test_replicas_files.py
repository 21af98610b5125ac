"""What docker-compose.replicas.yml and the balancer's configuration say of each other and of the server."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from weightloom.settings import Settings
from weightloom_proto.v1 import fabrication_pb2 as pb

ROOT = Path(__file__).parents[2]
CONFIG = (ROOT / "deploy/haproxy/haproxy.cfg").read_text()
TEXT = (ROOT / "docker-compose.replicas.yml").read_text()
SERVICES: dict[str, Any] = yaml.safe_load(TEXT.replace("!reset", ""))["services"]
DEFAULTS = Settings.model_fields


def test_a_stop_is_announced_for_longer_than_the_balancer_takes_to_notice() -> None:
    between, quicker, times = (int(value) for value in found(r"inter (\d+)ms fastinter (\d+)ms fall (\d+)"))
    drain = int(SERVICES["weightloom"]["environment"]["WEIGHTLOOM_DRAIN_SECONDS"])
    assert drain * 1000 > 2 * (between + quicker * (times - 1))


def test_the_server_decides_about_readers_and_senders_that_stall() -> None:
    for side in ("client", "server"):
        (minutes,) = found(rf"timeout {side} +(\d+)m$")
        assert int(minutes) * 60 >= 2 * DEFAULTS["stall_seconds"].default


def test_the_ports_are_the_servers() -> None:
    ports = {str(DEFAULTS[name].default) for name in ("port", "grpc_port")}
    assert set(re.findall(r"weightloom:(\d+)", CONFIG)) == ports
    assert {*re.findall(r"^    bind :(\d+)", CONFIG, re.MULTILINE)} == ports | {"8404"}
    assert {port.rpartition(":")[2] for port in SERVICES["balancer"]["ports"]} == ports


def test_the_balancer_knows_the_contract_of_grpc() -> None:
    service = pb.DESCRIPTOR.services_by_name["FabricationService"]
    paths = {f"/{service.full_name}/{method.name}" for method in service.methods}
    assert set(re.findall(r"/weightloom\.v1\S+", CONFIG)) <= paths
    (number,) = found(r"ungrpc\((\d+)\) if is_fabricate")
    assert pb.FabricateRequest.DESCRIPTOR.fields_by_number[int(number)].name == "model"


def test_the_database_has_no_password_of_its_own_and_no_port() -> None:
    assert re.search(r"\$\{POSTGRES_PASSWORD:\?", TEXT)
    assert "ports" not in SERVICES["database"]
    assert SERVICES["database"]["networks"] == ["database"]


def test_the_balancer_s_buffers_fit_into_its_memory() -> None:
    """Who sends requests without an end, key or not, is not to have it killed."""
    (size,), (number,) = found(r"^ *tune\.bufsize (\d+)$"), found(r"^ *tune\.buffers\.limit (\d+)$")
    assert "${BALANCER_MEMORY_LIMIT:-1g}" in TEXT
    assert int(size) * int(number) < 0.8 * (1 << 30)


def test_haproxy_takes_the_configuration_without_a_warning() -> None:
    program = shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin:/usr/local/sbin")
    if program is None:
        pytest.skip("haproxy is not installed")
    command = [program, "-c", "-dW", "-f", str(ROOT / "deploy/haproxy/haproxy.cfg")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def found(pattern: str) -> tuple[str, ...]:
    (values,) = re.findall(pattern, CONFIG, re.MULTILINE)
    return (values,) if isinstance(values, str) else values
