"""Ports, labels and metrics of the manifests, against the code and each other."""

from __future__ import annotations

import re

import pytest
import yaml
from support.manifests import ALL, FOLDER, ROOT, SERVERS, deployment, one
from weightloom.settings import Settings
from weightloom.telemetry.metrics import METRICS

DOCKERFILE = (ROOT / "Dockerfile").read_text()
FIELDS = Settings.model_fields


@pytest.mark.parametrize("overlay", SERVERS)
def test_ports_are_those_of_the_server_wherever_they_are_named(overlay: str) -> None:
    (container,) = deployment(overlay)["template"]["spec"]["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"http": FIELDS["port"].default, "grpc": FIELDS["grpc_port"].default}
    assert set(map(str, ports.values())) == set(re.findall(r"^EXPOSE (.*)", DOCKERFILE, re.MULTILINE)[0].split())
    services = [d for d in ALL[overlay] if d["kind"] == "Service"]
    assert len(services) == 2
    for service in services:
        assert {port["name"]: port["port"] for port in service["spec"]["ports"]} == ports
        assert all(port["targetPort"] == port["name"] for port in service["spec"]["ports"])
    (rule,) = one(overlay, "NetworkPolicy")["spec"]["ingress"]
    assert {port["port"] for port in rule["ports"]} == ports.keys()
    for kind, front in (("HTTPRoute", "http"), ("GRPCRoute", "grpc")):
        (ref,) = one(overlay, kind)["spec"]["rules"][0]["backendRefs"]
        assert (ref["name"], ref["port"]) == ("weightloom", ports[front])


def test_the_ingress_leads_to_ports_of_the_service() -> None:
    backends = [
        path["backend"]["service"]
        for d in ALL["everything"]
        if d["kind"] == "Ingress"
        for rule in d["spec"]["rules"]
        for path in rule["http"]["paths"]
    ]
    assert [(b["name"], b["port"]["name"]) for b in backends] == [("weightloom", "http"), ("weightloom", "grpc")]


@pytest.mark.parametrize("overlay", SERVERS)
def test_selectors_select_the_servers_and_never_the_admin_pod(overlay: str) -> None:
    labels = deployment(overlay)["template"]["metadata"]["labels"]
    chosen = [deployment(overlay)["selector"]["matchLabels"], one(overlay, "PodDisruptionBudget")["spec"]["selector"]]
    chosen += [d["spec"]["selector"] for d in ALL[overlay] if d["kind"] == "Service"]
    chosen += [rule["labelSelector"] for rule in deployment(overlay)["template"]["spec"]["topologySpreadConstraints"]]
    assert all(selector.get("matchLabels", selector) == labels for selector in chosen)
    policy = one(overlay, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"].items()
    assert policy <= labels.items()
    for pod in (d for d in ALL[overlay] if d["kind"] == "Pod"):
        assert pod["metadata"]["labels"] != labels
        assert policy <= pod["metadata"]["labels"].items()
    scaled = one(overlay, "HorizontalPodAutoscaler")["spec"]["scaleTargetRef"]
    assert (scaled["kind"], scaled["name"]) == ("Deployment", one(overlay, "Deployment")["metadata"]["name"])


@pytest.mark.parametrize("overlay", SERVERS)
def test_the_autoscaler_asks_for_metrics_that_there_are(overlay: str) -> None:
    gauges = {metric.name for metric in METRICS if metric.kind == "gauge"}
    asked = {
        m["pods"]["metric"]["name"] for m in one(overlay, "HorizontalPodAutoscaler")["spec"]["metrics"] if "pods" in m
    }
    (rule,) = yaml.safe_load((FOLDER / "prometheus-adapter.yaml").read_text())["rules"]["custom"]
    name, labels = re.fullmatch(r"(\w+)\{(.*)\}", rule["seriesQuery"]).groups()  # type: ignore[union-attr]
    assert asked == {name}
    assert asked <= gauges
    (job,) = yaml.safe_load((FOLDER / "prometheus.yaml").read_text())
    targets = {relabel["target_label"] for relabel in job["relabel_configs"] if "target_label" in relabel}
    assert targets == set(re.findall(r'(\w+)!=""', labels)) == rule["resources"]["overrides"].keys()
    (chosen,) = job["kubernetes_sd_configs"][0]["selectors"]
    labels_of_pods = deployment(overlay)["template"]["metadata"]["labels"]
    assert chosen["label"] == ",".join(f"{key}={labels_of_pods[key]}" for key in sorted(labels_of_pods, reverse=True))
    (window,), between = re.findall(r"\[(\d+)s\]", rule["metricsQuery"]), job["scrape_interval"].removesuffix("s")
    assert int(window) >= 2 * int(between), "one scrape may fail, and there is a value nevertheless"
