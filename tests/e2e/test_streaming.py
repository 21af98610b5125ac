"""Streams against a real server: constant memory, slow readers, readers that vanish, small beside bulk."""

from __future__ import annotations

import hashlib
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

from support.server import Server, wait_until
from support.streams import BareClient, Reader, bulk, local_hash

MIB = 1 << 20


def highest_memory(server: Server, client: BareClient) -> tuple[int, int]:
    """Bytes read to the end of the body, and the most resident memory seen meanwhile."""
    total, highest = 0, 0
    for number, data in enumerate(client.read()):
        total += len(data)
        if number % 50 == 0:
            highest = max(highest, server.memory())
    return total, max(highest, server.memory())


def test_memory_does_not_grow_with_the_body(server: Server) -> None:
    with BareClient(server.url, bulk(2048)) as warm:
        highest_memory(server, warm)
    idle = server.memory()
    with BareClient(server.url, bulk(16384)) as client:
        total, highest = highest_memory(server, client)
    assert total == client.length > 16384 * 16384 * 4
    assert highest - idle < 64 * MIB


def test_a_slow_reader_gets_the_right_bytes_and_holds_up_nobody(server: Server) -> None:
    request, digest = bulk(4096, seed=77), hashlib.sha256()
    with BareClient(server.url, request, receive_buffer=65536) as client:
        for number, data in enumerate(client.read()):
            digest.update(data)
            if number == 5:
                assert any(is_idle(server) for _ in range(40)), "its window is full, so no tile is made"
                assert server.post_json("/fabricate", bulk(64)).status == 200
    assert digest.hexdigest() == local_hash(request)


def test_a_reader_that_vanishes_stops_its_tiles(server: Server) -> None:
    for seed in range(4):
        with BareClient(server.url, bulk(1 << 18, seed=seed)) as client:  # 256 GiB
            next(client.read())
    assert any(is_idle(server) for _ in range(40))
    assert server.request("GET", "/readyz").status == 200


def is_idle(server: Server) -> bool:
    before = server.cpu_seconds()
    time.sleep(0.25)
    return server.cpu_seconds() - before < 0.03


def test_small_requests_are_answered_beside_bulk_streams(server: Server) -> None:
    small, medium = bulk(64, seed=5), bulk(512, seed=6)
    with ExitStack() as stack:
        readers = [stack.enter_context(Reader(server, bulk(1 << 17, r=r, seed=r))) for r in (2, 2, 64)]
        wait_until(lambda: all(reader.bytes for reader in readers))
        before = [reader.bytes for reader in readers]
        for _ in range(20):
            assert hashlib.sha256(server.post_json("/fabricate", small).data).hexdigest() == local_hash(small)
            assert hashlib.sha256(server.post_json("/fabricate", medium).data).hexdigest() == local_hash(medium)
        wait_until(lambda: all(reader.bytes > count for reader, count in zip(readers, before, strict=True)))
        assert all(reader.is_alive() for reader in readers), "the bulk streams were running and moving"


def test_streams_side_by_side_do_not_mix_their_bytes(server: Server) -> None:
    requests = [bulk(1500 + 37 * seed, seed=seed) for seed in range(6)]

    def fetch(request: dict[str, Any]) -> str:
        with BareClient(server.url, request) as client:
            return client.sha256()

    with ThreadPoolExecutor(6) as pool:
        made = list(pool.map(fetch, requests))
    assert made == [local_hash(request) for request in requests]
