"""Files through HAProxy against the same files straight from the replica to which the server redirects, by our client.

Client, HAProxy and server share the machine's cores, so what the proxy costs shows in full. Small files say from which
size on a second request pays (the setting ``direct_bytes``).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

from client import client_process
from common import Row, interleave, note, one_tensor, print_table, random_w, ratio, spread
from models import register, warm
from servers import NO_HAPROXY, Server, haproxy, haproxy_program, weightloom

__all__ = ["run"]

ROWS = {"1 MiB": 64, "4 MiB": 256, "16 MiB": 1024, "64 MiB": 4096}  # of 4096 float32
ROUNDS, REPEATS = 9, 3
TUNED = "tune.bufsize 262144"
SETTINGS = {"DIRECT_URL": "http://127.0.0.1:{port}", "DIRECT_BYTES": 1 << 19}
_clients: dict[tuple[str, str], Any] = {}  # in the client's process: connections and arrays are kept
_arrays: dict[int, Any] = {}


def fetch(url: str, direct: str, rows: int) -> float:
    """Seconds for one file into arrays that are there."""
    from weightloom_client import Client

    client = _clients.setdefault((url, direct), Client(url, verify="off", direct=direct))  # type: ignore[arg-type]
    ask = partial(client.fabricate, "direct", {"x": random_w()}, rows={"x": (0, rows)})
    if rows not in _arrays:
        _arrays[rows] = ask()
    began = time.perf_counter()
    ask(out=_arrays[rows])
    return time.perf_counter() - began


def _url(server: Server) -> str:
    return f"http://127.0.0.1:{server.port}"


def _compare(size: str, name: str, balancer: Server, replica: Server, call: Callable[..., Any]) -> list[Row]:
    ways = {"through it": (balancer, "off"), "redirected": (balancer, "follow"), "no proxy": (replica, "off")}
    cases = {way: partial(call, fetch, _url(server), mode, ROWS[size]) for way, (server, mode) in ways.items()}
    seconds = interleave(cases, ROUNDS, REPEATS)
    for way, values in seconds.items():
        note(f"{size}, {name}, {way}: {spread(values, 2, 1e3)} ms")
    own, goal = seconds["redirected"], 1.0 if size == "64 MiB" else None
    return [
        Row.at_least("direct", f"{size}, {name}: through it / redirected", ratio(seconds["through it"], own), goal),
        Row.at_least("direct", f"{size}, {name}: no proxy / redirected", ratio(seconds["no proxy"], own)),
    ]


def run() -> list[Row]:
    """Rows for each size and both tunings: how many times sooner a redirected file is there."""
    if not haproxy_program():
        note(NO_HAPROXY)
        return []
    rows: list[Row] = []
    with weightloom(SETTINGS) as replica, client_process() as call:
        register(replica, one_tensor(4096, 4096, 2, name="direct"))
        warm(replica, "direct")
        for name, tuning in {"HAProxy": "", "HAProxy tuned": TUNED}.items():
            with haproxy(replica.port, tuning) as balancer:
                for size in ROWS:
                    rows += _compare(size, name, balancer, replica, call)
    return rows


if __name__ == "__main__":
    print_table(run())
