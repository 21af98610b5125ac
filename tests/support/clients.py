"""The kinds of clients that ``support.traffic`` runs: each yields after an answer, and raises for a wrong one."""

from __future__ import annotations

import http.client
import json
import random
import time
from collections.abc import Callable, Generator
from contextlib import closing
from typing import TYPE_CHECKING

import numpy as np
from support.rpc import data_of, request_message, stub_of
from support.streams import BareClient, bulk
from weightloom_client import Client, RetryPolicy
from weightloom_client.protocol import Wanted

if TYPE_CHECKING:
    from support.traffic import Traffic

SMALL, BULK, SLOW = bulk(64), bulk(2048, seed=2), bulk(1024, seed=3)
SLOW_SECONDS = 8.0
IDLE_SECONDS = 4.0, 6.0  # around the 5 seconds after which a server closes an idle connection
BATCH = 40_000  # w's of one upload: longer than any buffer of a proxy


def small_requests(traffic: Traffic) -> Generator[None]:
    """One after the other on one connection."""
    with closing(traffic.connection()) as connection:
        while True:
            traffic.check(SMALL, _posted(connection, "/fabricate", json.dumps(SMALL).encode()))
            yield


def new_connections(traffic: Traffic) -> Generator[None]:
    """A connection for each small request."""
    while True:
        with closing(traffic.connection()) as connection:
            traffic.check(SMALL, _posted(connection, "/fabricate", json.dumps(SMALL).encode()))
        yield


def idle_connections(traffic: Traffic) -> Generator[None]:
    """One connection that is idle for about as long as servers permit."""
    for _ in small_requests(traffic):
        yield
        traffic.over.wait(random.uniform(*IDLE_SECONDS))


def uploads(traffic: Traffic) -> Generator[None]:
    """Bodies that no buffer of a proxy holds, for replies as large."""
    spec = {"name": "inline", "seed": 4, "tensors": [{"name": "t", "shape": [4], "l": 4}]}
    body, first = Wanted.of(spec, {"t": np.ones((BATCH, 4), np.float32)}).body, b""
    with closing(traffic.connection()) as connection:
        while True:
            reply = _posted(connection, "/fabricate", body, "application/octet-stream")
            first = first or reply
            assert reply == first, "the same request, other bytes"
            yield


def bulk_streams(traffic: Traffic) -> Generator[None]:
    """16 MiB as fast as they come."""
    while True:
        with BareClient(traffic.url, BULK) as client:
            traffic.check(BULK, b"".join(client.read()))
        yield


def slow_readers(traffic: Traffic) -> Generator[None]:
    """4 MiB in many seconds."""
    while True:
        with BareClient(traffic.url, SLOW, receive_buffer=16384) as client:
            data = bytearray()
            for part in client.read():
                data += part
                time.sleep(SLOW_SECONDS * len(part) / client.length)
            traffic.check(SLOW, bytes(data))
        yield


def grpc_calls(traffic: Traffic) -> Generator[None]:
    """Small ones over one connection."""
    with stub_of(traffic.grpc_target) as stub:
        while True:
            traffic.check(SMALL, data_of(stub.Fabricate(request_message(SMALL), timeout=60)))
            yield


def grpc_streams(traffic: Traffic) -> Generator[None]:
    """16 MiB over one connection."""
    with stub_of(traffic.grpc_target) as stub:
        while True:
            traffic.check(BULK, data_of(stub.Fabricate(request_message(BULK), timeout=60)))
            yield


def sdk_calls(traffic: Traffic) -> Generator[None]:
    """A model registered, made, shown and deleted, without a second try."""
    with Client(traffic.url, retries=RetryPolicy(tries=1), verify="full") as client:
        for number in range(1 << 30):
            name = f"traffic/{number % 5}"
            client.create_model({"name": name, "seed": number % 5, "tensors": SMALL["tensors"]})
            client.fabricate(name, SMALL["w"])
            assert client.get_model(name)["name"] == name
            client.delete_model(name)
            yield


KINDS: tuple[Callable[[Traffic], Generator[None]], ...] = (
    *(small_requests, new_connections, idle_connections, uploads, bulk_streams),
    *(slow_readers, grpc_calls, grpc_streams, sdk_calls),
)


def _posted(connection: http.client.HTTPConnection, path: str, body: bytes, kind: str = "application/json") -> bytes:
    connection.request("POST", path, body, {"content-type": kind})
    reply = connection.getresponse()
    data = reply.read()
    assert reply.status == 200, f"{reply.status} {data[:300]!r}"
    return data
