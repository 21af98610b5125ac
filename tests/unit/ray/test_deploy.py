"""The files in deploy/ray/ say the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from support.ray_serve import ray_env
from weightloom.ray.requirements import check_environment, check_grpc_environment
from weightloom.settings import Settings

FOLDER = Path(__file__).parents[3] / "deploy/ray"


def kuberay() -> dict[str, Any]:
    documents = yaml.safe_load_all((FOLDER / "rayservice.yaml").read_text())
    return {document["kind"]: document for document in documents if document["metadata"]["name"] != "weightloom-redis"}


def groups_of(cluster: dict[str, Any]) -> list[dict[str, Any]]:
    return [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]


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
    for group in groups_of(cluster):
        (container,) = group["template"]["spec"]["containers"]
        assert {"configMapRef": {"name": found["ConfigMap"]["metadata"]["name"]}} in container["envFrom"]
    assert found["Secret"]["stringData"].keys() == {"WEIGHTLOOM_REGISTRY_URL"}, "several replicas need it"


def test_grpc_has_a_service_and_only_pods_with_replicas_answer() -> None:
    found = kuberay()
    spec, service = found["RayService"]["spec"], found["Service"]["spec"]
    port = yaml.safe_load(spec["serveConfigV2"])["grpc_options"]["port"]
    assert [(one["port"], one["targetPort"]) for one in service["ports"]] == [(port, port)]
    for group in spec["rayClusterConfig"]["workerGroupSpecs"]:
        labels = group["template"]["metadata"]["labels"] | {"ray.io/serve": "true"}
        assert service["selector"].items() <= labels.items()
    assert spec["excludeHeadPodFromServeSvc"] is True
    assert spec["rayClusterConfig"]["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"


def test_no_service_sets_a_setting() -> None:
    """Kubernetes puts addresses of a namespace's Services into its pods' environments; KubeRay adds two of its own."""
    found = kuberay()
    ours = found["Service"]["metadata"]["name"]
    (port,) = (one["name"] for one in found["Service"]["spec"]["ports"])
    variables = {f"PORT_{port}", "PORT", "SERVICE_PORT", "SERVICE_HOST"}
    names = [ours, *(f"{found['RayService']['metadata']['name']}-{kind}-svc" for kind in ("head", "serve"))]
    set_there = {f"{name}_{variable}".replace("-", "_").lower() for name in names for variable in variables}
    assert not set_there & {f"weightloom_{field}" for field in Settings.model_fields}


def test_there_may_be_as_many_workers_as_replicas() -> None:
    spec = kuberay()["RayService"]["spec"]
    arguments = yaml.safe_load(spec["serveConfigV2"])["applications"][0]["args"]
    (workers,) = spec["rayClusterConfig"]["workerGroupSpecs"]
    assert spec["rayClusterConfig"]["enableInTreeAutoscaling"] is True
    assert (workers["minReplicas"], workers["maxReplicas"]) == (arguments["min_replicas"], arguments["max_replicas"])
    (container,) = workers["template"]["spec"]["containers"]
    cores = {arguments["num_cpus"], int(workers["rayStartParams"]["num-cpus"])}
    assert cores == {int(container["resources"]["requests"]["cpu"])}


@pytest.mark.parametrize("version", ["1.31", "1.37"])
def test_what_is_kubernetes_own_follows_its_schemas(version: str) -> None:
    cluster = kuberay()["RayService"]["spec"]["rayClusterConfig"]
    pods = [{"apiVersion": "v1", "kind": "Pod", **group["template"]} for group in groups_of(cluster)]
    documents = list(yaml.safe_load_all((FOLDER / "rayservice.yaml").read_text()))
    for document in [*pods, *(document for document in documents if document["kind"] != "RayService")]:
        kubernetes_validate.validate(document, version, strict=True)
