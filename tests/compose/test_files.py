"""The Dockerfile and the compose files, as far as they can be checked without a Docker engine."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from weightloom import __version__
from weightloom.settings import Settings

ROOT = Path(__file__).parents[2]


class Loader(yaml.SafeLoader):
    """YAML with compose's tags for what an override replaces."""


Loader.add_multi_constructor("!", lambda loader, tag, node: loader.construct_sequence(node))
DOCKERFILE = (ROOT / "Dockerfile").read_text()
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
GPU: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.gpu.yml").read_text())
REPLICAS: dict[str, Any] = yaml.load((ROOT / "docker-compose.replicas.yml").read_text(), Loader)
FILES = {"alone": [], "gpu": ["gpu"], "replicas": ["replicas"], "both": ["replicas", "gpu"]}
BESIDE = sorted(REPLICAS["services"].keys() - COMPOSE["services"].keys())
SERVICES = COMPOSE["services"] | {name: REPLICAS["services"][name] for name in BESIDE}
VOLUMES = COMPOSE["volumes"].keys() | REPLICAS["volumes"].keys()
OWN_USERS = {"database": "postgres"}  # whose image begins as root, and would want capabilities to become another


@pytest.mark.parametrize("service", SERVICES)
def test_every_service_is_guarded(service: str) -> None:
    facts = SERVICES[service]
    assert (facts["read_only"], facts["cap_drop"], facts["restart"]) == (True, ["ALL"], "unless-stopped")
    assert facts["security_opt"] == ["no-new-privileges:true"]
    assert {"mem_limit", "pids_limit", "tmpfs"} - facts.keys() <= {"tmpfs"}
    assert facts["logging"]["options"]["max-size"]
    assert not facts.keys() & {"privileged", "network_mode", "pid", "ipc", "cap_add"}
    assert facts.get("user") == OWN_USERS.get(service)
    assert all(port.startswith("127.0.0.1:") for port in facts.get("ports", [])), "no key is asked for there"
    mounted = [volume.partition(":")[0] for volume in facts["volumes"]]
    assert all(name in VOLUMES or (ROOT / name).is_dir() for name in mounted)


def test_images_of_others_have_a_version_and_a_profile() -> None:
    for name, facts in SERVICES.items():
        assert name == "weightloom" or re.search(r":v?\d+\.\d+(\.\d+)?}?$", facts["image"])
        assert ("profiles" in facts) == (name != "weightloom" and name not in BESIDE)


def test_a_stop_is_given_longer_than_streams_are() -> None:
    grace = int(COMPOSE["services"]["weightloom"]["stop_grace_period"].removesuffix("s"))
    assert grace >= Settings.model_fields["shutdown_seconds"].default + 10
    replica = REPLICAS["services"]["weightloom"]
    assert int(replica["stop_grace_period"].removesuffix("s")) >= seconds(replica, "SHUTDOWN") + 10


def test_memory_is_enough_for_what_the_defaults_keep() -> None:
    fields = Settings.model_fields
    kept = fields["factor_bytes"].default + fields["small_factor_bytes"].default + (1 << 30)
    assert COMPOSE["services"]["weightloom"]["mem_limit"] == "${MEMORY_LIMIT:-4g}"
    assert kept + (1 << 30) <= 4 << 30


def test_the_gpu_file_adds_to_the_service_that_is_there() -> None:
    assert GPU["services"].keys() <= COMPOSE["services"].keys()
    facts = GPU["services"]["weightloom"]
    (device,) = facts["deploy"]["resources"]["reservations"]["devices"]
    assert (device["driver"], device["capabilities"]) == ("nvidia", ["gpu"])
    variants = re.findall(r"^FROM \S+ AS runtime-(\w+)", DOCKERFILE, re.MULTILINE)
    assert facts["build"]["args"]["VARIANT"] in variants


@pytest.mark.parametrize("files", FILES.values(), ids=FILES)
def test_compose_itself_takes_the_files(files: list[str]) -> None:
    plugin = ["docker", "compose", "version"]
    if not shutil.which("docker") or subprocess.run(plugin, capture_output=True, check=False).returncode:
        pytest.skip("docker compose is not installed")
    names = ["docker-compose.yml", *(f"docker-compose.{file}.yml" for file in files)]
    named = [option for name in names for option in ("--file", name)]
    command = ["docker", "compose", "--env-file", os.devnull, *named, "--profile", "*", "config", "--quiet"]
    environment = os.environ | {"POSTGRES_PASSWORD": "for-the-test"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_image_says_what_it_is_and_runs_as_nobody_in_particular() -> None:
    assert f"ARG VERSION={__version__}\n" in DOCKERFILE
    assert re.search(r"^USER 10001:10001$", DOCKERFILE, re.MULTILINE)
    assert not re.search(r"^(# syntax=|ADD )|https?://", DOCKERFILE, re.MULTILINE)
    settings = re.findall(r"WEIGHTLOOM_([A-Z_]+)=", DOCKERFILE)
    assert {name.lower() for name in settings} <= Settings.model_fields.keys()


def test_the_image_is_made_from_what_is_copied_and_from_nothing_else() -> None:
    copied = {
        source for line in re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.MULTILINE) for source in line.split()
    }
    copied |= set(re.findall(r"--mount=type=bind,source=([^,]+)", DOCKERFILE))
    kept = [line[1:].rstrip("/") for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    assert all((ROOT / path).exists() for path in copied | set(kept))
    assert all(any(path in {name, *map(str, Path(name).parents)} for path in copied) for name in kept)


def seconds(service: dict[str, Any], setting: str) -> int:
    return int(service["environment"][f"WEIGHTLOOM_{setting}_SECONDS"])
