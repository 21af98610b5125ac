"""What a server takes of the machine, and what it says about itself, before and after a soak."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support.metrics import scrape, value
from support.server import Server

__all__ = ["Footprint", "access_codes", "footprint", "log_records", "processes_of", "unrest"]

GAUGES = ("streams_running", "requests_waiting", "bytes_in_flight")


@dataclass(frozen=True)
class Footprint:
    """Of a server and its workers together: resident bytes, threads, and open file descriptors."""

    memory: int
    threads: int
    descriptors: int


def processes_of(pid: int) -> list[int]:
    """A process and all beneath it."""
    children = Path(f"/proc/{pid}/task").glob("*/children")
    return [pid, *(one for file in children for child in file.read_text().split() for one in processes_of(int(child)))]


def footprint(server: Server) -> Footprint:
    """As it is now."""
    counts = [_of_process(pid) for pid in processes_of(server.process.pid)]
    return Footprint(*map(sum, zip(*counts, strict=True)))


def _of_process(pid: int) -> tuple[int, int, int]:
    status = Path(f"/proc/{pid}/status").read_text()
    memory, threads = (int(re.search(rf"{name}:\s+(\d+)", status)[1]) for name in ("VmRSS", "Threads"))  # type: ignore[index]
    return memory * 1024, threads, len(list(Path(f"/proc/{pid}/fd").iterdir()))


def unrest(server: Server) -> dict[str, float]:
    """Gauges that are not 0 though nobody is there and nothing is resident; empty where all is at rest."""
    samples = scrape(server)
    found = {name: value(samples, name) for name in GAUGES} | {"T": value(samples, "factor_store_bytes", store="T")}
    return {name: number for name, number in found.items() if number}


def log_records(server: Server) -> Iterator[dict[str, Any]]:
    """The log's lines; one that is not JSON is a record of level ERROR."""
    for line in server.log.read_text().splitlines():
        try:
            yield json.loads(line)
        except ValueError:
            yield {"level": "ERROR", "message": f"a line that is not JSON: {line}"}


def access_codes(server: Server) -> dict[str, list[str]]:
    """How calls ended, by request id: a code for each line of the access log."""
    codes: dict[str, list[str]] = {}
    for record in log_records(server):
        if record.get("logger") == "weightloom.access":
            codes.setdefault(record["request_id"], []).append(record["code"])
    return codes
