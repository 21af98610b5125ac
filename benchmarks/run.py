"""Run all benchmarks, or those named: ``python benchmarks/run.py [fabric rest_stream ...]``; one table at the end.

Each runs in a process of its own, so that none meets memory or threads that another one left behind. The exit status is
0 even where a goal is missed: what a machine reaches depends on its cores and on who else uses them.
"""

from __future__ import annotations

import importlib
import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor

from common import Row, print_table

ALL = (
    "fabric",
    "rest_stream",
    "grpc_stream",
    "sdk",
    "direct",
    "many_streams",
    "residency",
    "first_byte",
    "memory",
    "latency",
    "small_requests",
    "materialize",
    "afternoon",
)


def run_one(name: str) -> list[Row]:
    """The rows of one benchmark."""
    print(f"\n{name}", flush=True)
    rows: list[Row] = importlib.import_module(name).run()
    return rows


def main(names: list[str]) -> None:
    """Run the benchmarks called ``names``, or all."""
    if unknown := set(names) - set(ALL):
        raise SystemExit(f"no benchmark {sorted(unknown)[0]!r}; there are {', '.join(ALL)}")
    rows: list[Row] = []
    for name in names or ALL:
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as executor:
            rows += executor.submit(run_one, name).result()
    print_table(rows)


if __name__ == "__main__":
    main(sys.argv[1:])
