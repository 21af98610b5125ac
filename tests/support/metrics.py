"""What a server's /metrics says."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families
from support.server import Server

Sample = tuple[str, frozenset[tuple[str, str]]]


def parse(text: str) -> dict[Sample, float]:
    """Value by name and labels."""
    families = text_string_to_metric_families(text)
    return {(s.name, frozenset(s.labels.items())): s.value for family in families for s in family.samples}


def scrape(server: Server) -> dict[Sample, float]:
    """All samples of a server."""
    reply = server.request("GET", "/metrics")
    assert reply.status == 200
    assert reply.headers["Content-Type"].startswith("text/plain")
    return parse(reply.data.decode())


def value(samples: dict[Sample, float], name: str, **labels: str) -> float:
    """One sample, 0 where it is not there yet; the prefix ``weightloom_`` is left out."""
    return samples.get((f"weightloom_{name}", frozenset(labels.items())), 0.0)
