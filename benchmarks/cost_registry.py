"""What servers ask of a PostgreSQL registry: connections, transactions a second when idle, and what these cost it.

A database of its own is started, as the tests do; a server of several processes is left alone on it for some seconds.
The price of a look (one row, two numbers) is measured with one connection that asks nothing else; a model's and a key's
bytes by adding some thousand. ``python benchmarks/cost_registry.py`` takes half a minute and needs PostgreSQL.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import psycopg
from models import register
from servers import weightloom
from weightloom.registry import open_registry
from weightloom.registry.keys import Scope, new_key

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))
from support.postgres import running_cluster

PROCESSES, SECONDS, LOOKS, MODELS, KEYS = 4, 10.0, 20_000, 2000, 2000
LOOK = "SELECT version, changes FROM weightloom.state"
LOOK_AT_KEYS = "SELECT count(*), max(created_at), count(revoked_at), max(revoked_at) FROM weightloom.api_keys"
COUNT = "SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()"
CONNECTIONS = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'weightloom'"
TICKS = os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Print one table."""
    with running_cluster() as cluster:
        url = cluster.database()
        print("\n| PostgreSQL | measured |\n|---|---|")
        _print_idle(url)
        with psycopg.connect(url, autocommit=True) as connection:
            _print_look(connection, LOOK, LOOKS, "")
            _print_sizes(connection, url)
            _print_look(connection, LOOK_AT_KEYS, KEYS, f"whether any of {KEYS} keys has changed, ")


def _print_idle(url: str) -> None:
    with weightloom({"REGISTRY_URL": url, "WORKERS": PROCESSES}), psycopg.connect(url, autocommit=True) as connection:
        time.sleep(SECONDS)  # counts come seconds late
        before = _number(connection, COUNT)
        time.sleep(SECONDS)
        rate = (_number(connection, COUNT) - before) / SECONDS / PROCESSES
        print(f"| transactions a second of an idle process | {rate:.1f} |")
        print(f"| connections of an idle process | {_number(connection, CONNECTIONS) / PROCESSES:.2f} |")


def _print_look(connection: psycopg.Connection[tuple[object, ...]], query: str, times: int, what: str) -> None:
    pid = connection.info.backend_pid
    cpu = _cpu_seconds(pid)
    for _ in range(times):
        connection.execute(query, prepare=False)
    print(f"| core-µs of a look {what}in the database | {(_cpu_seconds(pid) - cpu) / times * 1e6:.0f} |")


def _print_sizes(connection: psycopg.Connection[tuple[object, ...]], url: str) -> None:
    sizes = [_size(connection, table) for table in ("models", "api_keys")]
    with weightloom({"REGISTRY_URL": url}) as server:
        for number in range(MODELS):
            tensors = [{"name": f"layers.{n}.weight", "shape": [768, 768], "l": 64} for n in range(8)]
            register(server, {"name": f"tenants/{number:06d}/model", "seed": number, "tensors": tensors})
    registry = open_registry(url, Path("nowhere"))
    try:
        for number in range(KEYS):
            registry.keys.add(new_key(f"tenant {number}", [Scope.FABRICATE])[0])
        began = time.thread_time()
        registry.keys.all()
        print(f"| core-ms of a process that reads {KEYS} keys | {(time.thread_time() - began) * 1e3:.1f} |")
    finally:
        registry.close()
    models, keys = (_size(connection, t) - size for t, size in zip(("models", "api_keys"), sizes, strict=True))
    print(f"| a model of 8 tensors, bytes with its indexes | {models / MODELS:.0f} |")
    print(f"| a key, bytes with its index | {keys / KEYS:.0f} |")


def _size(connection: psycopg.Connection[tuple[object, ...]], table: str) -> int:
    return _number(connection, f"SELECT pg_total_relation_size('weightloom.{table}')")


def _number(connection: psycopg.Connection[tuple[object, ...]], query: str) -> int:
    row = connection.execute(query).fetchone()
    assert row is not None
    return int(str(row[0]))


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


if __name__ == "__main__":
    main()
