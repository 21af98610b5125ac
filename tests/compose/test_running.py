"""`make compose-test`: the image is built and the default profile serves, guarded, through restarts and stops."""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor

import pytest
from support.compose import Deployment, docker
from support.server import HTTP, wait_until
from support.streams import BareClient, bulk, local_hash
from support.vectors import KNOWN_FILES, KNOWN_IDS, KnownFile
from weightloom_client import Client

pytestmark = pytest.mark.timeout(1200)  # the first build fetches its packages
FIRST_BYTES_IN_BUFFERS = 4


def made_by(url: str, known: KnownFile, model: object) -> str:
    with Client(url) as client:
        return hashlib.sha256(
            known.elements(client.fabricate(model, {known.tensor: known.w})[known.tensor].tobytes(), 4)
        ).hexdigest()


@pytest.mark.parametrize("known", KNOWN_FILES, ids=KNOWN_IDS)
@pytest.mark.parametrize("front", ["http", "grpc"])
def test_both_fronts_give_the_known_answers(running: Deployment, front: str, known: KnownFile) -> None:
    url = running.url if front == "http" else f"grpc://{running.grpc_target}"
    assert made_by(url, known, known.model) == known.entry["sha256"]["F32"]


def test_the_kernels_came_compiled_with_the_image(running: Deployment) -> None:
    """Nothing was compiled since: what the build made fits what requests ask for."""
    with Client(running.url) as client:
        for w in ([1.0, 2, 3, 4], [[1.0, 2, 3, 4]] * 3):
            for dtype in ("F32", "F16", "BF16"):
                request = bulk(300, r=7)
                del request["w"]
                client.fabricate(request | {"name": "inline"}, {"t": w}, dtype=dtype)
    assert running.inside("diff -r /opt/kernels /tmp/numba && echo same").strip() == "same"


def test_other_processors_and_no_folder_to_write_to_make_a_start_slower_and_nothing_else(running: Deployment) -> None:
    script = """python -c '
from weightloom.engine.known_answer import check_known_answer
from weightloom.fabric import load_backend
from weightloom.fabric.device import Cpu
check_known_answer(Cpu(load_backend("numba")))
print("right")'"""
    elsewhere = "export NUMBA_CPU_NAME=generic HOME=/nowhere NUMBA_CACHE_DIR=/nowhere\n"
    assert running.inside(elsewhere + script) == "right\n"


def test_the_server_may_do_little_in_its_container(running: Deployment) -> None:
    status = dict(line.split(":\t", 1) for line in running.inside("cat /proc/1/status").splitlines())
    assert status["Uid"].split() == status["Gid"].split() == ["10001"] * 4
    assert {int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {0}
    assert status["NoNewPrivs"] == "1"
    assert (
        running.inside("for p in / /opt/weightloom /opt/kernels /home; do touch $p/x 2>&1 || true; done").count(
            "Read-only file system"
        )
        == 4
    )
    assert (
        running.inside("touch /data/x /tmp/x && rm /data/x /tmp/x && stat -c %u:%g:%a /data").strip()
        == "10001:10001:750"
    )


def test_there_is_no_compiler_and_no_installer(running: Deployment) -> None:
    assert running.inside("for c in cc gcc g++ clang ld as make nvcc; do command -v $c || true; done") == ""
    assert (
        running.inside(
            "ls /opt/weightloom/lib/python3*/site-packages | grep -ixE 'pip|setuptools|torch|pytest' || true"
        )
        == ""
    )


def test_the_engine_holds_the_limits(running: Deployment) -> None:
    facts = running.inspect()
    host = facts["HostConfig"]
    assert (host["Memory"], host["PidsLimit"], host["NanoCpus"]) == (4 << 30, 1024, 10**9)
    assert HTTP.request("GET", f"{running.url}/v1/info").json()["limits"]["threads"] == 1, "as many as CPU_LIMIT gives"
    published = [entry["HostIp"] for ports in facts["NetworkSettings"]["Ports"].values() for entry in ports or []]
    assert set(published) == {"127.0.0.1"}, "there is no authentication yet"
    assert facts["State"]["Health"]["Status"] == "healthy"


def test_health_tells_what_is_wrong_and_logs_are_json(running: Deployment) -> None:
    told = running.inside(
        "python -m weightloom.health && echo fine; python -m weightloom.health http://127.0.0.1:9 2>&1 || echo $?"
    )
    assert told.startswith("fine\nhttp://127.0.0.1:9: ")
    assert told.endswith("refused\n1\n")
    for line in docker("logs", running.inspect()["Id"]).splitlines():
        assert json.loads(line)["level"] in ("INFO", "WARNING")


@pytest.mark.parametrize("how", ["restart", "replaced"])
def test_registered_models_survive(running: Deployment, how: str) -> None:
    known = KNOWN_FILES[0]
    body = json.dumps(known.model | {"name": f"kept/{how}"}).encode()
    made = HTTP.request("POST", f"{running.url}/v1/models", body=body, headers={"content-type": "application/json"})
    assert made.status in (200, 201)
    before = running.inspect()
    if how == "restart":
        running.compose("restart")
    else:
        running.compose("up", "--detach", "--no-build", "--force-recreate")
    running.up()
    assert (running.inspect()["Id"] == before["Id"]) == (how == "restart")
    assert made_by(running.url, known, f"kept/{how}") == known.entry["sha256"]["F32"]


def test_a_stop_lets_a_slow_stream_end(running: Deployment) -> None:
    request, digest = bulk(6144, seed=3), hashlib.sha256()
    with ThreadPoolExecutor(1) as pool, BareClient(running.url, request, receive_buffer=65536) as client:
        for number, data in enumerate(client.read()):
            digest.update(data)
            if number == FIRST_BYTES_IN_BUFFERS:
                stopped = pool.submit(running.compose, "stop")
                wait_until(lambda: running.ready_code() == 503)
        stopped.result()
    assert digest.hexdigest() == local_hash(request)
    state = running.inspect()["State"]
    assert (state["ExitCode"], state["OOMKilled"]) == (0, False)
