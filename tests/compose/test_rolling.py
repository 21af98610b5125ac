"""deploy/roll.sh, as docs/operations.md has it, under load."""

from __future__ import annotations

import json
import subprocess

import pytest
from support.clients import KINDS
from support.compose import IMAGE, ROOT, Deployment, docker
from support.traffic import traffic_to

pytestmark = pytest.mark.timeout(1200)


def test_all_replicas_are_replaced_under_load_without_one_failed_request(replicas: Deployment) -> None:
    before = replicas.containers()
    with traffic_to(replicas.url, replicas.grpc_target) as traffic:
        done = roll(replicas, WEIGHTLOOM_IMAGE=IMAGE)
        assert done.returncode == 0, done.stdout + done.stderr
    after = replicas.containers()
    assert len(after) == len(before) == 2
    assert not set(after) & set(before)
    assert traffic.failures == []
    replicas.up()
    assert replicas.containers() == after, "the next docker compose up has nothing to do"
    assert traffic.answers.keys() == {kind.__name__ for kind in KINDS}, "every kind of client was served"


def test_a_new_image_that_does_not_come_up_changes_nothing(replicas: Deployment) -> None:
    before = sorted(replicas.containers())
    done = roll(replicas, INSECURE_NO_AUTH="perhaps", ROLL_PATIENCE_SECONDS="20")
    assert done.returncode == 1
    assert "a healthy new server did not come within" in done.stderr
    assert "--insecure-no-auth" in done.stderr, "its log says why"
    assert sorted(replicas.containers()) == before
    states = [json.loads(docker("inspect", container))[0]["State"]["Health"]["Status"] for container in before]
    assert (states, replicas.ready_code()) == (["healthy"] * 2, 200)


def roll(replicas: Deployment, **changed: str) -> subprocess.CompletedProcess[str]:
    environment = replicas.environment | changed
    command = [str(ROOT / "deploy/roll.sh")]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
