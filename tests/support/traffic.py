"""Clients of all kinds that go on until they are told to stop, retry nothing, and note whatever went wrong."""

from __future__ import annotations

import hashlib
import http.client
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from typing import Any
from urllib.parse import urlsplit

from support.clients import BULK, KINDS, SLOW, SMALL
from support.streams import local_hash


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

    def run(self, kind: Callable[[Traffic], Generator[None]]) -> None:
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
