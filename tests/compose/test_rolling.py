"""deploy/roll.sh, as docs/operations.md has it, under load."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path

import pytest
from support.clients import KINDS
from support.compose import IMAGE, ROOT, Deployment, docker
from support.server import wait_until
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


def test_an_image_that_cannot_even_be_started_leaves_nothing_behind(replicas: Deployment, tmp_path: Path) -> None:
    before = sorted(replicas.containers())
    (tmp_path / "Dockerfile").write_text(f'FROM {IMAGE}\nENTRYPOINT ["/is/not/there"]\n')
    docker("build", "--tag", "weightloom:compose-test-broken", str(tmp_path))
    try:
        done = roll(replicas, WEIGHTLOOM_IMAGE="weightloom:compose-test-broken")
    finally:
        docker("rmi", "weightloom:compose-test-broken")
    assert done.returncode == 1
    assert "/is/not/there" in done.stderr
    assert sorted(replicas.containers()) == before


def test_what_docker_compose_run_has_left_is_no_server(replicas: Deployment) -> None:
    before = set(replicas.containers())
    replicas.compose("run", "--no-deps", "--entrypoint", "true", "weightloom")
    (left,) = set(replicas.containers()) - before
    try:
        done = roll(replicas)
        assert done.returncode == 0, done.stdout + done.stderr
        after = set(replicas.containers())
        assert (len(before), len(after), after & before, after & {left}) == (2, 3, set(), {left})
    finally:
        docker("rm", "--force", left)


def test_a_roll_that_is_interrupted_takes_its_new_server_away_and_another_one_meanwhile_is_refused(
    replicas: Deployment,
) -> None:
    before = sorted(replicas.containers())
    rolling = start_roll(replicas, INSECURE_NO_AUTH="perhaps")
    wait_until(lambda: len(replicas.containers()) == 3)
    refused = roll(replicas)
    assert (refused.returncode, refused.stderr) == (1, "roll: it is running already\n")
    rolling.send_signal(signal.SIGINT)
    _, errors = rolling.communicate()
    assert rolling.returncode == 130
    assert "roll: interrupted" in errors
    assert sorted(replicas.containers()) == before


def roll(replicas: Deployment, **changed: str) -> subprocess.CompletedProcess[str]:
    rolling = start_roll(replicas, **changed)
    output, errors = rolling.communicate()
    return subprocess.CompletedProcess(rolling.args, rolling.returncode, output, errors)


def start_roll(replicas: Deployment, **changed: str) -> subprocess.Popen[str]:
    command, environment = [str(ROOT / "deploy/roll.sh")], replicas.environment | changed
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
