"""The dashboard and the alerts of the profile observability, checked without Prometheus and Grafana."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard
from support.compose import DASHBOARD, ROOT
from weightloom.errors import WeightloomError
from weightloom.rest.problems import ROUTING_CODES
from weightloom.settings import Settings
from weightloom.telemetry.metrics import METRICS

DEPLOY = ROOT / "deploy"
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())


def known_errors(kind: type[WeightloomError] = WeightloomError) -> set[type[WeightloomError]]:
    return {kind}.union(*map(known_errors, kind.__subclasses__()))


SERIES = {m.name: m.labels for m in METRICS if m.kind != "histogram"} | {
    m.name + suffix: (*m.labels, "le")[: len(m.labels) + (suffix == "_bucket")]
    for m in METRICS
    if m.kind == "histogram"
    for suffix in ("_bucket", "_sum", "_count")
}
OF_PROMETHEUS = {"instance", "job"}
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
ALERTS = [
    rule
    for group in yaml.safe_load((DEPLOY / "prometheus/alerts.yml").read_text())["groups"]
    for rule in group["rules"]
]
EXPRESSIONS = [target["expr"] for panel in PANELS for target in panel["targets"]] + [rule["expr"] for rule in ALERTS]


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_dashboard_and_alerts_ask_for_metrics_and_labels_that_exist(expression: str) -> None:
    named = set(re.findall(r"weightloom_\w+", re.sub(r'"[^"]*"', "", expression)))
    assert named <= SERIES.keys()
    labels = {label for name in named for label in SERIES[name]} | OF_PROMETHEUS
    grouped = {
        label.strip() for group in re.findall(r"(?:by|ignoring) \(([^)]*)\)", expression) for label in group.split(",")
    }
    assert grouped | set(re.findall(r'(\w+)(?:=~|!~|!=|=)"', expression)) <= labels
    assert all(expression.count(a) == expression.count(b) for a, b in ("()", "[]", "{}"))


CODES = {code for kind in known_errors() for code in kind.codes} | {"ok", "cancelled", *ROUTING_CODES.values()}


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_they_ask_for_codes_that_exist(expression: str) -> None:
    assert {code for codes in re.findall(r'code(?:=~|!~|=)"([^"]*)"', expression) for code in codes.split("|")} <= CODES


def test_every_metric_is_on_the_dashboard() -> None:
    shown = " ".join(EXPRESSIONS)
    assert not [m.name for m in METRICS if m.name not in shown]


def test_the_dashboards_panels_do_not_overlap_and_have_a_data_source() -> None:
    (source,) = yaml.safe_load((DEPLOY / "grafana/provisioning/datasources/prometheus.yml").read_text())["datasources"]
    cells: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        own = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert not own & cells, panel["title"]
        assert at["x"] + at["w"] <= 24
        cells |= own
    assert {panel["datasource"]["uid"] for panel in PANELS} == {source["uid"]}
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


def test_grafanas_own_schema_knows_every_field_of_the_dashboard() -> None:
    """What it does not know it leaves out."""
    read = json.loads(JSONEncoder().encode(Dashboard.from_json(DASHBOARD)))
    assert lost(DASHBOARD, read) == []


def lost(given: Any, read: Any, path: str = "") -> list[str]:
    """Where ``read`` lacks something of ``given``, or has it otherwise."""
    if isinstance(given, dict) and isinstance(read, dict):
        return [where for key in given for where in lost(given[key], read.get(key), f"{path}.{key}")]
    if isinstance(given, list) and isinstance(read, list) and len(given) == len(read):
        return [where for i, (a, b) in enumerate(zip(given, read, strict=True)) for where in lost(a, b, f"{path}[{i}]")]
    return [] if given == read else [path]


def test_prometheus_and_grafana_find_each_other_and_the_server() -> None:
    scraped = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text())
    (job,) = scraped["scrape_configs"]
    (names,) = job["dns_sd_configs"]
    assert set(names["names"]) <= COMPOSE["services"].keys()
    assert names["port"] == Settings.model_fields["port"].default
    assert [DEPLOY / "prometheus" / Path(name).name for name in scraped["rule_files"]] == [
        DEPLOY / "prometheus/alerts.yml"
    ]
    assert all(rule["annotations"]["summary"] and rule["labels"]["severity"] for rule in ALERTS)
