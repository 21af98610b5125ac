"""The manifests of deploy/kubernetes by schema, and what is rendered from them."""

from __future__ import annotations

import copy
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.manifests import ALL, FOLDER, ROOT, SERVERS, check, one


def test_every_document_follows_its_schema_and_what_is_kept_is_what_is_rendered() -> None:
    assert list(check.problems()) == []


def break_(document: dict[str, Any], path: list[Any], value: Any) -> dict[str, Any]:
    broken = copy.deepcopy(document)
    at: Any = broken
    for step in path[:-1]:
        at = at[step]
    at[path[-1]] = value
    return broken


@pytest.mark.parametrize(
    ("kind", "path", "value"),
    [
        ("Deployment", ["spec", "template", "spec", "containers", 0, "livenesProbe"], {}),
        ("Deployment", ["spec", "minReadySeconds"], "5 s"),
        ("HorizontalPodAutoscaler", ["spec", "metrics", 0, "pods", "metric"], {}),
        ("HTTPRoute", ["spec", "rules", 0, "timeouts", "request"], "forever"),
        ("GRPCRoute", ["spec", "rules", 0, "timeouts"], {"request": "0s"}),
    ],
)
def test_the_check_finds_what_is_misspelt_or_of_the_wrong_form(kind: str, path: list[Any], value: Any) -> None:
    document = one("cpu", kind)
    assert check.problem_of(document) is None
    assert check.problem_of(break_(document, path, value))


def test_every_file_is_used_by_a_kustomization() -> None:
    used = set()
    for path in FOLDER.rglob("kustomization.yaml"):
        told = yaml.safe_load(path.read_text())
        named = told.get("resources", []) + told.get("components", []) + [p["path"] for p in told.get("patches", [])]
        named += [env for maker in told.get("configMapGenerator", []) for env in maker.get("envs", [])]
        used |= {(path.parent / name).resolve() for name in named}
    assert all(path.exists() for path in used)
    unused = {path for path in check.sources() if path.name != "kustomization.yaml"} - used
    assert {path.name for path in unused} == set(check.NO_MANIFESTS)


@pytest.mark.parametrize("overlay", SERVERS)
def test_everything_is_in_the_one_namespace(overlay: str) -> None:
    spaces = {d["kind"]: d["metadata"].get("namespace") for d in ALL[overlay]}
    assert spaces.pop("Namespace") is None
    assert set(spaces.values()) == {one(overlay, "Namespace")["metadata"]["name"]}


def test_the_overlay_of_the_page_can_be_rendered(tmp_path: Path) -> None:
    if not check.has_kustomize():
        pytest.skip("no recent kubectl is installed")
    (shown,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs/kubernetes.md").read_text(), re.DOTALL)
    (tmp_path / "weightloom/deploy").mkdir(parents=True)
    shutil.copytree(FOLDER, tmp_path / "weightloom/deploy/kubernetes")
    (tmp_path / "own").mkdir()
    (tmp_path / "own/kustomization.yaml").write_text(shown)
    command = ["kubectl", "kustomize", str(tmp_path / "own")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    documents = list(yaml.safe_load_all(done.stdout))
    assert [check.problem_of(document) for document in documents] == [None] * len(documents)
    assert "image: images.example/weightloom:0.1.0" in done.stdout
    assert "WEIGHTLOOM_MAX_STREAMS" in done.stdout
