"""What the cost model counts in a request, and how a server's real cost of it is measured.

Cost is the server's own processor time (user and system, all threads) for one request. That is what a plan divides
cores by, and other programs on the machine disturb it less than they do a clock.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from client import Request
from common import LENGTH
from load import drain, hammer
from models import counter
from servers import Server
from weightloom.fabric import safetensors
from weightloom.fabric.dtypes import parse_dtype
from weightloom.fabric.layout import TILE

__all__ = ["UNITS", "Case", "Cost", "measure"]

UNITS = ("request", "tensor", "normal drawn", "product", "byte of T read", "byte sent", "element rounded to F16")
WAITING = (
    2  # tiles of a stream's window that wait for the same T while another worker makes the rest, where W's are small
)
SMALL = 1 << 16  # bytes of a reply: below it, connections are kept alive, and requests come one after the other on each
PASSES = "weightloom_pass_tiles"


@dataclass(frozen=True)
class Case:
    """``streams`` requests at once, for ``models`` in turn: ``tensors`` of (rows, columns), and a batch of w's."""

    rows: int
    columns: int
    r: int
    tensors: int = 1
    dtype: str = "F32"
    batch: int = 1
    streams: int = 1
    models: int = 1
    resident: bool = False

    @property
    def name(self) -> str:
        """For people."""
        shape = f"{self.tensors} × " * (self.tensors > 1) + f"{self.rows} × {self.columns}"
        parts = [shape, f"r = {self.r}", self.dtype]
        parts += [f"{self.batch} w's"] * (self.batch > 1) + ["resident"] * self.resident
        at_once = f"{self.streams} at once" if self.streams > 1 else "alone"
        return ", ".join([*parts, at_once + f", {self.models} models" * (self.models > 1)])

    @property
    def model(self) -> str:
        """The models' common name, without a number."""
        return f"{self.tensors}x{self.rows}x{self.columns}r{self.r}{'k' * self.resident}"

    @property
    def elements(self) -> int:
        """Of one W."""
        return self.rows * self.columns

    @property
    def reply_bytes(self) -> int:
        """Of data in one reply."""
        return self.tensors * self.batch * self.elements * self._item

    @property
    def t_bytes(self) -> int:
        """Of all T's of one model."""
        return self.tensors * self.elements * self.r * 4

    def specs(self) -> list[dict[str, Any]]:
        """The models."""
        shape = {"shape": [self.rows, self.columns], "l": LENGTH, "r": self.r}
        tensors = [{"name": f"t{number}", **shape} for number in range(self.tensors)]
        return [{"name": f"{self.model}-{n}", "seed": n, "tensors": tensors} for n in range(self.models)]

    def requests(self, port: int) -> list[Request]:
        """One for each stream, each with w's of its own."""
        return [self._request(port, number) for number in range(self.streams)]

    def counts(self, tiles_per_pass: float) -> list[float]:
        """How often each of ``UNITS`` comes in one request, where a pass serves so many requests' tiles."""
        made = self.tensors * self.batch * self.elements
        numbers = made * self.r / (self._ws_of_a_tile * tiles_per_pass)
        drawn, read = (0.0, numbers * 4) if self.resident else (numbers, 0.0)
        return [1, self.tensors, drawn, made * self.r, read, self.reply_bytes, made * (self.dtype == "F16")]

    def together(self, in_step: float) -> float:
        """How many tiles a pass should make, where it serves this share of a model's streams."""
        streams = max(1.0, in_step * self.streams / self.models)
        return streams * (WAITING if 1 < self._ws_of_a_tile < self.batch else 1)

    @property
    def _ws_of_a_tile(self) -> int:
        """W's of the batch that a tile spans; it has fewer bytes where many numbers are drawn for each element."""
        tile_bytes = min(TILE.bytes, max(512, TILE.draws // self.r) * self._item)
        return max(1, min(self.batch, tile_bytes // (self.elements * self._item)))

    @property
    def _item(self) -> int:
        return parse_dtype(self.dtype).itemsize

    def _request(self, port: int, number: int) -> Request:
        shape = (LENGTH,) if self.batch == 1 else (self.batch, LENGTH)
        w = np.random.default_rng(number).standard_normal((self.tensors, *shape), np.float32)
        entries = [(f"t{n}", "F32", shape, values.nbytes) for n, values in enumerate(w)]
        path = f"/fabricate?model={self.model}-{number % self.models}&dtype={self.dtype}"
        body = safetensors.build_header({}, entries) + w.tobytes()
        return Request(port, path, body, "application/octet-stream")


@dataclass(frozen=True)
class Cost:
    """Of one request: the server's core-seconds, and seconds until the next. Tiles that a pass made on average."""

    core_seconds: float
    seconds: float
    tiles_per_pass: float


def measure(call: Callable[..., Any], server: Server, case: Case, seconds: float) -> Cost:
    """Ask again and again for so long, from another process."""
    before, cpu, began = _passes(server), sum(server.cpu_seconds), time.perf_counter()
    requests = case.requests(server.port)
    if case.reply_bytes <= SMALL:
        asked: float = call(hammer, requests[0], case.streams, seconds).per_second * seconds
    else:
        asked = call(drain_again, requests, seconds)
    elapsed, cpu = time.perf_counter() - began, sum(server.cpu_seconds) - cpu
    tiles, passes = (after - earlier for after, earlier in zip(_passes(server), before, strict=True))
    return Cost(cpu / asked, elapsed / asked, tiles / passes if passes else 1.0)


def drain_again(requests: Sequence[Request], seconds: float) -> int:
    """Receive all bodies at once, again and again for so long: how many."""
    end, count = time.perf_counter() + seconds, 0
    while time.perf_counter() < end:
        drain(requests)
        count += len(requests)
    return count


def _passes(server: Server) -> tuple[float, float]:
    return counter(server, f"{PASSES}_sum"), counter(server, f"{PASSES}_count")
