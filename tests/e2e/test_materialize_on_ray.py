"""``weightloom materialize --ray``: the same files, the same journal; actors that die are no harm."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from support.ray_alone import alone, why_not
from support.tables import MODEL, SPEC, row, w_of, write_lines
from weightloom.fabric import VirtualFile

pytestmark = [pytest.mark.skipif(bool(why_not()), reason=why_not()), pytest.mark.timeout(1200)]

ENVIRONMENT = os.environ | {
    "RAY_USAGE_STATS_ENABLED": "0",
    "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),  # for actors, which import the tests' makers
}
DEADLY = """
import sys, threading
from support.tables import MODEL, DeadlyMaker, row
from weightloom.materialize.batches import Batch, Item
from weightloom.materialize.maker import MakerOptions
from weightloom.materialize.on_ray import OnRay
import json

specs = {"demo": MODEL.model_dump_json().encode()}
def batch(first, *files):
    items = [Item(n, f, json.dumps(row(n, file=f)).encode(), "demo") for n, f in enumerate(files, first)]
    return Batch(items, specs)
ray = OnRay("local", 2, MakerOptions(sys.argv[1]), DeadlyMaker)
batches = [batch(1, "a", "deadly", "b"), batch(4, "c", "once", "d"), batch(7, "e")]
for outcomes in ray.run(iter(batches), threading.Event()):
    for outcome in outcomes:
        print("OUTCOME", outcome.file, outcome.state, outcome.code)
"""


BROKEN = DEADLY.replace("DeadlyMaker", "BrokenMaker")
ELSEWHERE = """
mkdir elsewhere; cd elsewhere
python -m ray.scripts.scripts start --head --port=6399 --num-cpus=1 --include-dashboard=false --block >/dev/null &
cd ..
for i in $(seq 200); do (: </dev/tcp/127.0.0.1/6399) 2>/dev/null && break; sleep 1; done
"$@"; code=$?
kill %1; wait
exit $code
"""


def test_a_relative_target_lies_where_the_command_runs_and_not_where_the_cluster_does(tmp_path: Path) -> None:
    (tmp_path / "spec.json").write_text(json.dumps(SPEC))
    write_lines(tmp_path / "t.jsonl", [row(1)])
    command = [sys.executable, "-m", "weightloom", "materialize", "t.jsonl", "out", "-m", "spec.json"]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = ENVIRONMENT | {"RAY_AUTH_MODE": "disabled", "PATH": path}
    with_cluster = ["bash", "-c", ELSEWHERE, "with_cluster", *command, "--ray", "127.0.0.1:6399"]
    done = alone(with_cluster, tmp_path, environment)
    assert done.returncode == 0, done.stderr
    assert "1 made" in done.stderr
    assert (tmp_path / "out/v/1.safetensors").exists()
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_ray_makes_the_same_files_and_goes_on(tmp_path: Path) -> None:
    (tmp_path / "spec.json").write_text(json.dumps(SPEC))
    write_lines(tmp_path / "t.jsonl", [row(1), row(2), "no JSON", row(4, w={"a": [1.0]}), row(5)])
    command = [sys.executable, "-m", "weightloom", "materialize", "t.jsonl", "out", "-m", "spec.json"]
    done = alone([*command, "--ray", "local", "--processes", "2"], tmp_path, ENVIRONMENT)
    assert done.returncode == 1, done.stderr
    assert "3 made" in done.stderr
    assert "2 failed" in done.stderr
    for number in (1, 2, 5):
        file = VirtualFile(MODEL, {name: np.array(values) for name, values in w_of(number).items()})
        assert (tmp_path / f"out/v/{number}.safetensors").read_bytes() == file.read(0, file.size)
    write_lines(tmp_path / "t.jsonl", [row(number) for number in range(1, 6)])
    done = alone([*command, "--ray", "local", "--processes", "1"], tmp_path, ENVIRONMENT)
    assert done.returncode == 0, done.stderr
    assert "2 made" in done.stderr
    assert "3 kept" in done.stderr


def test_an_item_that_kills_its_actor_is_told_and_the_others_are_made(tmp_path: Path) -> None:
    done = alone([sys.executable, "-c", DEADLY, str(tmp_path)], tmp_path, ENVIRONMENT)
    assert done.returncode == 0, done.stderr
    said = [line.split() for line in done.stdout.splitlines() if line.startswith("OUTCOME")]  # Ray prints there, too
    states = {file: state for _, file, *state in said}
    assert states.pop("deadly") == ["failed", "worker_died"]
    assert sorted(states) == ["a", "b", "c", "d", "e", "once"]
    assert {state for (state,) in states.values()} <= {"made", "kept"}
    assert (tmp_path / "b").exists()


def test_an_actor_that_cannot_begin_ends_the_run_with_its_reason(tmp_path: Path) -> None:
    done = alone([sys.executable, "-c", BROKEN, str(tmp_path)], tmp_path, ENVIRONMENT)
    assert done.returncode == 1
    assert done.stderr.rstrip().endswith("weightloom.errors.Unavailable: no arithmetic")
