"""The commands of docs/operations.md that back up and restore."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from support.compose import ROOT, Deployment
from support.replicas import ready_servers
from support.server import HTTP, wait_until

pytestmark = pytest.mark.timeout(1200)
DOCS = (ROOT / "docs/operations.md").read_text()


def commands(title: str) -> list[str]:
    """The blocks of bash in a section."""
    return re.findall(r"```bash\n(.*?)```", DOCS.partition(f"# {title}\n")[2].partition("\n#")[0], re.DOTALL)


def test_the_documented_backup_brings_models_back(running: Deployment, tmp_path: Path) -> None:
    brings_models_back(running, "In containers", tmp_path)


def test_the_documented_backup_of_replicas_brings_models_back(replicas: Deployment, tmp_path: Path) -> None:
    brings_models_back(replicas, "Backup of the replicas", tmp_path, lambda: ready_servers(replicas) == 2)


def brings_models_back(
    running: Deployment, title: str, folder: Path, is_back: Callable[[], bool] = lambda: True
) -> None:
    """By the commands of a section; ``is_back``: whether it serves again after them."""
    backup, restore = commands(title)
    register(running, "in/backup")
    running.inside("mkdir -p /data/factors && echo blob >/data/factors/of-a-backup")
    shell(backup, running, folder)
    register(running, "after/backup")
    running.inside("rm /data/factors/of-a-backup")
    shell(restore, running, folder)
    wait_until(is_back)
    codes = [HTTP.request("GET", f"{running.url}/v1/models/{name}").status for name in ("in/backup", "after/backup")]
    assert codes == [200, 404]
    assert running.inside("cat /data/factors/of-a-backup && rm /data/factors/of-a-backup") == "blob\n"
    register(running, "writable/again")


def test_a_backup_that_is_cut_off_costs_nothing_of_what_is_there(running: Deployment, tmp_path: Path) -> None:
    costs_nothing(running, "In containers", tmp_path / "backup.tar")


def test_a_dump_that_is_cut_off_costs_nothing_of_what_is_there(replicas: Deployment, tmp_path: Path) -> None:
    costs_nothing(replicas, "Backup of the replicas", tmp_path / "registry.dump")


def costs_nothing(running: Deployment, title: str, file: Path) -> None:
    """To restore what lacks its end fails, and the service goes on with what it had."""
    (backup, restore), name = commands(title), title.lower().replace(" ", "-")
    register(running, f"before/{name}")
    shell(backup, running, file.parent)
    file.write_bytes(file.read_bytes()[:-20] if file.suffix == ".dump" else file.read_bytes()[:20_000])
    listed = HTTP.request("GET", f"{running.url}/v1/models").json()
    shell(restore, running, file.parent, succeeds=False)
    running.up()
    assert HTTP.request("GET", f"{running.url}/v1/models").json() == listed
    register(running, f"after/{name}")


def register(running: Deployment, name: str) -> None:
    body = json.dumps({"name": name, "seed": len(name), "tensors": [{"name": "t", "shape": [2]}]}).encode()
    url, headers = f"{running.url}/v1/models", {"content-type": "application/json"}
    assert HTTP.request("POST", url, body=body, headers=headers).status == 201


def shell(script: str, running: Deployment, folder: Path, *, succeeds: bool = True) -> None:
    script = re.sub(r"\b(backup\.tar|factors\.tar|registry\.dump)\b", rf"{folder}/\1", script)
    command = ["bash", "-euo", "pipefail", "-c", script]
    done = subprocess.run(command, cwd=ROOT, env=running.environment, capture_output=True, text=True, check=False)
    assert (done.returncode == 0) is succeeds, done.stdout + done.stderr
