"""A process that is a Ray cluster of several nodes on one machine and serves weightloom; it obeys lines of its input.

``kill`` ends one node at once, as when its machine fails; ``add`` adds one. Each is answered by a line when as many
replicas serve as there are nodes. ``heal`` is so when that is so again after it was not. ``stop`` ends all replicas as
Ray does, and is answered when they have ended.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

from ray import serve
from ray.cluster_utils import Cluster
from weightloom.ray import Arguments, app

STORE_BYTES = 80 << 20  # of each node; nothing of ours goes there
ADDRESSES = iter(f"127.0.0.{number}" for number in range(1, 250))


def add_node(cluster: Cluster) -> object:
    """A node with room for one replica."""
    return cluster.add_node(num_cpus=1, node_ip_address=next(ADDRESSES), object_store_memory=STORE_BYTES)


def kill(cluster: Cluster, node: object) -> None:
    """With every process of it: a worker would notice that its raylet is gone, but only after a moment."""
    for pid in with_children(node.all_processes["raylet"][0].process.pid):  # type: ignore[attr-defined]
        os.kill(pid, signal.SIGKILL)
    cluster.remove_node(node, allow_graceful=False)


def with_children(pid: int) -> list[int]:
    """The process and all below it."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(below for child in children for below in with_children(int(child)))]


def running() -> int:
    """Replicas that run, as far as Ray knows."""
    return serve.status().applications["weightloom"].deployments["Weightloom"].replica_states.get("RUNNING", 0)


def wait_for_replicas(number: int) -> float:
    """Seconds until so many, and no more, run."""
    began = time.monotonic()
    while running() != number:
        time.sleep(0.05)
    return time.monotonic() - began


def main(nodes: int) -> None:
    """Serve until the input ends."""
    cluster = Cluster(initialize_head=False)
    alive = [add_node(cluster) for _ in range(nodes)]
    cluster.connect()
    serve.start(
        proxy_location="HeadOnly",
        http_options={"port": 8000},
        grpc_options={"port": 50051, "grpc_servicer_functions": ["weightloom.ray:add_grpc"]},
    )
    serve.run(app(Arguments(min_replicas=nodes, max_replicas=nodes)), name="weightloom", route_prefix="/")
    say("serving")
    for line in sys.stdin:
        if line == "kill\n":
            kill(cluster, alive.pop())
            say(f"{wait_for_replicas(nodes - 1):.1f}")
        elif line == "add\n":
            alive.append(add_node(cluster))
            say(f"{wait_for_replicas(nodes):.1f}")
        elif line == "heal\n":
            while running() == nodes:
                time.sleep(0.05)
            say(f"{wait_for_replicas(nodes):.1f}")
        elif line == "stop\n":
            serve.delete("weightloom")
            say("stopped")


def say(text: str) -> None:
    """One line to whom it may concern; Ray's own go to the same place."""
    sys.stdout.write(f"ANSWER {text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(int(sys.argv[1]))
