"""Our gRPC stream of a 64 MiB body against our REST stream of the same bytes, from the same server process.

T is resident, so that the tiles cost as little as they can and the difference between the fronts shows. Either client
runs in a process of its own, opens a new connection for each body, reads no reply's contents, and throws all of it
away; gRPC's is grpcio's, whose C core unpacks HTTP/2 frames and hands every message over as bytes. Its reading costs a
Python client several times the CPU time of a plain socket: the CPU times say what share of the time is the client's.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from client import Download, client_process, download
from common import Row, interleave, note, one_tensor, print_table, ratio, spread
from grpc_client import grpc_download, grpc_message
from models import register, request_of, warm
from servers import Server, weightloom

__all__ = ["run"]

SPEC = one_tensor(4096, 4096, 2)
ROUNDS, REPEATS = 11, 3


@dataclass
class Stream:
    """A case: seconds of one download, with the CPU time of server and client."""

    server: Server
    download: Callable[[], Download]
    cpu: list[tuple[float, float]] = field(default_factory=list)

    def __call__(self) -> float:
        before = sum(self.server.cpu_seconds)
        done = self.download()
        self.cpu.append((sum(self.server.cpu_seconds) - before, done.cpu_seconds))
        return done.seconds

    def note(self, name: str, seconds: list[float]) -> None:
        """One line; the CPU times are means."""
        server, client = (statistics.mean(column) * 1e3 for column in zip(*self.cpu, strict=True))
        note(f"{name}: {spread(seconds, scale=1e3)} ms; CPU ms per body: server {server:.1f}, client {client:.1f}")


def _streams(server: Server, call: Callable[..., Any]) -> dict[str, Stream]:
    request, message = request_of(server, "benchmark"), grpc_message("benchmark")
    return {
        "gRPC": Stream(server, lambda: call(grpc_download, server.grpc_port, message)),
        "REST": Stream(server, lambda: call(download, request)),
    }


def run() -> list[Row]:
    """One row."""
    note("one body of 4096 x 4096 F32, r = 2, resident T")
    with weightloom() as server, client_process() as call:
        register(server, SPEC)
        warm(server, "benchmark")
        streams = _streams(server, call)
        seconds = interleave(streams, ROUNDS, REPEATS)
    for name, stream in streams.items():
        stream.note(name, seconds[name])
    what = "64 MiB, resident T: bytes/s over gRPC / over REST"
    return [Row.at_least("grpc_stream", what, ratio(seconds["REST"], seconds["gRPC"]))]


if __name__ == "__main__":
    print_table(run())
