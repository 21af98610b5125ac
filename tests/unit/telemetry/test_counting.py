"""The observer that counts, and the metrics that it fills."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from support.metrics import Sample, parse, value
from weightloom.engine import Call
from weightloom.telemetry.counting import PrometheusObserver, exposition
from weightloom.telemetry.metrics import BulkHistogram


@pytest.fixture
def observer() -> Iterator[PrometheusObserver]:
    observer = PrometheusObserver(more_codes=["route_not_found"])
    yield observer
    observer.close()


def scrape() -> dict[Sample, float]:
    return parse(exposition()[0].decode())


def end(observer: PrometheusObserver, front: str = "grpc", name: str = "fabricate", code: str = "ok") -> None:
    call = Call(observer.call_ended, front, name)
    with call:
        call.code, call.sent_bytes, call.elements = code, 100, 25
        call.queue, call.compute, call.send = 0.3, 2.0, 0.00004


def test_an_ended_call_moves_every_metric_of_calls(observer: PrometheusObserver) -> None:
    before = scrape()
    for _ in range(3):
        end(observer)
    after = scrape()

    def gain(name: str, **labels: str) -> float:
        return value(after, name, **labels) - value(before, name, **labels)

    assert gain("requests_total", front="grpc", call="fabricate", code="ok") == 3
    assert gain("request_seconds_count", front="grpc", call="fabricate") == 3
    assert gain("sent_bytes_total", front="grpc") == 300
    assert gain("elements_total") == 75
    assert gain("queue_seconds_sum") == pytest.approx(0.9)
    assert gain("queue_seconds_bucket", le="0.25") == 0
    assert gain("queue_seconds_bucket", le="0.5") == 3
    assert gain("compute_seconds_bucket", le="2.5") == 3
    assert gain("send_seconds_bucket", le="0.0001") == 3


def test_other_calls_and_refused_ones_are_not_in_the_histograms_of_streams(observer: PrometheusObserver) -> None:
    before = scrape()
    end(observer, name="get_model")
    with Call(observer.call_ended, "rest", "fabricate") as refused:
        refused.code = "too_many_requests"
    after = scrape()
    assert value(after, "queue_seconds_count") == value(before, "queue_seconds_count")
    counted = {"front": "rest", "call": "fabricate", "code": "too_many_requests"}
    assert value(after, "requests_total", **counted) == value(before, "requests_total", **counted) + 1


def test_labels_that_no_table_knows_become_other(observer: PrometheusObserver) -> None:
    before = scrape()
    for number in range(50):
        end(observer, f"front{number}", f"call{number}", f"code{number}")
        observer.factor_used(f"store{number}")
    end(observer, "rest", "get_model", "route_not_found")
    after = scrape()
    new = {sample for sample in after if sample not in before and sample[0] == "weightloom_requests_total"}
    assert len(new) <= 2
    other = {"front": "other", "call": "other", "code": "other"}
    assert value(after, "requests_total", **other) == value(before, "requests_total", **other) + 50
    assert value(after, "requests_total", front="rest", call="get_model", code="route_not_found") >= 1
    assert value(after, "factor_hits_total", store="other") == value(before, "factor_hits_total", store="other") + 50


def test_load_passes_and_factors(observer: PrometheusObserver) -> None:
    before = scrape()
    observer.load_changed(9, 9, 9)
    observer.load_changed(3, 2, 1 << 30)
    for tiles in (1, 1, 5, 100):
        observer.pass_made(tiles)
    observer.factors_held("T", 4096)
    observer.factor_built("T")
    observer.factor_used("PQS")
    observer.factor_evicted("T")
    after = scrape()
    assert value(after, "streams_running") == 3
    assert value(after, "requests_waiting") == 2
    assert value(after, "bytes_in_flight") == 1 << 30
    assert value(after, "factor_store_bytes", store="T") == 4096
    for le, count in (("1.0", 2), ("4.0", 2), ("8.0", 3), ("64.0", 3), ("+Inf", 4)):
        assert value(after, "pass_tiles_bucket", le=le) - value(before, "pass_tiles_bucket", le=le) == count
    for event, store in (("builds", "T"), ("hits", "PQS"), ("evictions", "T")):
        name = f"factor_{event}_total"
        assert value(after, name, store=store) == value(before, name, store=store) + 1


def test_nothing_is_lost_between_threads(observer: PrometheusObserver) -> None:
    before = value(scrape(), "pass_tiles_count")

    def work() -> None:
        for _ in range(5000):
            observer.pass_made(2)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        exposition()
    assert value(scrape(), "pass_tiles_count") == before + 20_000


def test_what_came_last_is_counted_when_it_is_closed() -> None:
    before = value(scrape(), "pass_tiles_count")
    observer = PrometheusObserver()
    observer.pass_made(1)
    observer.close()
    assert value(scrape(), "pass_tiles_count") == before + 1


def test_listeners_are_told_at_once() -> None:
    told: list[Call] = []
    observer = PrometheusObserver(listeners=[told.append])
    end(observer)
    assert [call.name for call in told] == ["fabricate"]
    observer.close()


def test_many_observations_at_once_are_the_same_as_one_by_one() -> None:
    registry = CollectorRegistry()
    amounts = [0.0, 0.5, 1.0, 1.0000001, 5.0, 1e9]
    bulk, single = (BulkHistogram(name, name, buckets=[0.5, 1, 5], registry=registry) for name in ("a", "b"))
    bulk.observe_all(amounts)
    for amount in amounts:
        single.observe(amount)
    (one,), (other,) = bulk.collect(), single.collect()
    assert [sample.value for sample in one.samples] == [sample.value for sample in other.samples]
    assert len(one.samples) == 6


WORKER = """
import sys
from weightloom.engine import Call
from weightloom.telemetry.counting import PrometheusObserver, exposition
observer = PrometheusObserver()
observer.load_changed(int(sys.argv[1]), 0, 0)
observer.pass_made(int(sys.argv[1]))
with Call(observer.call_ended, "rest", "get_model"):
    pass
sys.stdout.write(exposition()[0].decode())
sys.stdout.flush()
sys.stdin.read()
observer.close()
"""


def test_any_of_several_processes_answers_for_all(tmp_path: Path) -> None:
    """Live gauges are added up, too, and every process has the same names as a single one."""
    environment = os.environ | {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "env": environment}
    with subprocess.Popen([sys.executable, "-c", WORKER, "2"], **pipes) as first:
        assert first.stdout is not None
        while "weightloom_build_info" not in (line := first.stdout.readline()):
            assert line
        second = subprocess.run(
            [sys.executable, "-c", WORKER, "3"], input="", check=True, stdout=-1, text=True, env=environment
        )
        first.communicate("")
    both = parse(second.stdout)
    assert value(both, "streams_running") == 5
    assert value(both, "pass_tiles_sum") == 5
    assert value(both, "requests_total", front="rest", call="get_model", code="ok") == 2
    assert [v for (name, _), v in both.items() if name == "weightloom_build_info"] == [1]
