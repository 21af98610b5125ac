"""The files in deploy/ray/ say the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from support.ray_serve import ray_env
from weightloom.ray.requirements import check_environment, check_grpc_environment

FOLDER = Path(__file__).parents[3] / "deploy/ray"


def kuberay() -> dict[str, Any]:
    documents = yaml.safe_load_all((FOLDER / "rayservice.yaml").read_text())
    return {document["kind"]: document for document in documents if document["metadata"]["name"] != "weightloom-redis"}


def test_kuberay_deploys_what_serve_deploys() -> None:
    ours = yaml.safe_load((FOLDER / "serve.yaml").read_text())
    theirs = yaml.safe_load(kuberay()["RayService"]["spec"]["serveConfigV2"])
    assert ours["applications"][0].pop("args").keys() == theirs["applications"][0].pop("args").keys()
    assert theirs == ours


def test_kuberay_sets_on_every_node_what_is_needed() -> None:
    found = kuberay()
    environment = found["ConfigMap"]["data"]
    check_environment(environment)
    check_grpc_environment(environment)
    assert environment == ray_env()
    cluster = found["RayService"]["spec"]["rayClusterConfig"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    for group in groups:
        (container,) = group["template"]["spec"]["containers"]
        assert {"configMapRef": {"name": found["ConfigMap"]["metadata"]["name"]}} in container["envFrom"]
    assert found["Secret"]["stringData"].keys() == {"WEIGHTLOOM_REGISTRY_URL"}, "several replicas need it"
