"""Clients of all kinds that go on until they are told to stop, retry nothing, and note whatever went wrong."""

from __future__ import annotations

import hashlib
import http.client
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from support.rpc import data_of, request_message, stub_of
from support.streams import BareClient, bulk, local_hash
from weightloom_client import Client, RetryPolicy
from weightloom_client.protocol import Wanted

SMALL, BULK, SLOW = bulk(64), bulk(2048, seed=2), bulk(1024, seed=3)
SLOW_SECONDS = 8.0
IDLE_SECONDS = 4.0, 6.0  # around the 5 seconds after which a server closes an idle connection
BATCH = 40_000  # w's of one upload: longer than any buffer of a proxy

Kind = Callable[["Traffic"], Generator[None]]


class Traffic:
    """``answers`` counts by kind of client, ``failures`` tells in words; both belong to the threads until the end."""

    def __init__(self, url: str, grpc_target: str) -> None:
        self.url, self.grpc_target = url, grpc_target
        self.answers: Counter[str] = Counter()
        self.failures: list[str] = []
        self.over = threading.Event()
        self._hashes = {id(request): local_hash(request) for request in (SMALL, BULK, SLOW)}

    def connection(self) -> http.client.HTTPConnection:
        """A new one; close it."""
        return http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=60)

    def check(self, request: dict[str, Any], data: bytes) -> None:
        """Raises AssertionError for wrong bytes."""
        assert hashlib.sha256(data).hexdigest() == self._hashes[id(request)], f"{len(data)} wrong bytes"

    def run(self, kind: Kind) -> None:
        """One client after the other of a kind: a failed one is replaced."""
        while not self.over.is_set():
            try:
                with closing(kind(self)) as client:
                    for _ in client:
                        self.answers[kind.__name__] += 1
                        if self.over.is_set():
                            return
            except Exception as error:  # whatever it is, a test tells it
                self.failures.append(f"{time.time():.3f} {kind.__name__}: {error!r}"[:600])
                time.sleep(0.1)

    def stop(self) -> None:
        """Let each client finish its request."""
        self.over.set()


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


KINDS: tuple[Kind, ...] = (
    *(small_requests, new_connections, idle_connections, uploads, bulk_streams),
    *(slow_readers, grpc_calls, grpc_streams, sdk_calls),
)


@contextmanager
def traffic_to(url: str, grpc_target: str) -> Iterator[Traffic]:
    """One client of each kind for as long as the context is open."""
    traffic = Traffic(url, grpc_target)
    threads = [threading.Thread(target=traffic.run, args=(kind,)) for kind in KINDS]
    for thread in threads:
        thread.start()
    try:
        yield traffic
    finally:
        traffic.stop()
        for thread in threads:
            thread.join()


def _posted(connection: http.client.HTTPConnection, path: str, body: bytes, kind: str = "application/json") -> bytes:
    connection.request("POST", path, body, {"content-type": kind})
    reply = connection.getresponse()
    data = reply.read()
    assert reply.status == 200, f"{reply.status} {data[:300]!r}"
    return data
