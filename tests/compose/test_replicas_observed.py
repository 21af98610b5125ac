"""The profile `observability` beside several replicas: a real Prometheus finds all of them and takes the rules."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.compose import DASHBOARD, Deployment, docker
from support.server import HTTP, wait_until
from urllib3.exceptions import HTTPError

pytestmark = pytest.mark.timeout(1200)


@pytest.fixture
def prometheus(replicas: Deployment) -> Iterator[str]:
    """Its URL. (Grafana's image is not to be had everywhere.)"""
    replicas.compose("up", "--detach", "--no-build", "--no-recreate", "prometheus")
    address = replicas.compose("port", "prometheus", "9090").strip()
    wait_until(lambda: answers(f"http://{address}/-/ready"))
    yield f"http://{address}"
    replicas.compose("rm", "--stop", "--force", "--volumes", "prometheus")


def test_prometheus_finds_every_replica_by_its_name(replicas: Deployment, prometheus: str) -> None:
    wait_until(lambda: len(values(prometheus, 'up{job="weightloom"} == 1')) == 2)
    assert len(values(prometheus, "weightloom_build_info")) == 2
    assert len(values(prometheus, "count(count by (version) (weightloom_build_info)) == 1")) == 1


def test_prometheus_takes_the_rules(replicas: Deployment, prometheus: str) -> None:
    check = ["promtool", "check", "config", "/etc/prometheus/prometheus.yml"]
    checked = replicas.compose("exec", "-T", "prometheus", *check)
    assert "SUCCESS: 7 rules found" in checked
    wait_until(lambda: {rule["health"] for rule in rules(prometheus)} == {"ok"})
    assert "WeightloomDown" not in {rule["name"] for rule in rules(prometheus) if rule["state"] == "firing"}


def test_prometheus_answers_all_that_the_dashboard_asks(replicas: Deployment, prometheus: str) -> None:
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", []):
            query = target["expr"].replace("$__rate_interval", "1m").replace("$instance", ".*")
            reply = HTTP.request("GET", f"{prometheus}/api/v1/query", fields={"query": query}).json()
            assert reply["status"] == "success", (panel["title"], query, reply)


def test_the_balancer_tells_prometheus_too(replicas: Deployment) -> None:
    container = replicas.containers()[0]
    script = "import urllib.request as r; print(r.urlopen('http://balancer:8404/metrics').read().decode())"
    text = docker("exec", container, "python", "-c", script)
    assert 'haproxy_backend_active_servers{proxy="rest"} 2' in text
    assert 'haproxy_backend_active_servers{proxy="grpc"} 2' in text


def answers(url: str) -> bool:
    try:
        return bool(HTTP.request("GET", url).status == 200)
    except HTTPError:
        return False


def values(prometheus: str, query: str) -> list[dict[str, object]]:
    reply = HTTP.request("GET", f"{prometheus}/api/v1/query", fields={"query": query})
    return list(reply.json()["data"]["result"])


def rules(prometheus: str) -> list[dict[str, str]]:
    groups = HTTP.request("GET", f"{prometheus}/api/v1/rules").json()["data"]["groups"]
    return [rule for group in groups for rule in group["rules"]]
