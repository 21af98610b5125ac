"""Imported factors from the client: whatever holds them, uploaded once, over any transport."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.imported import sha256_of
from support.proxy import cut, flip, proxy_to
from support.server import Server, running_server
from weightloom_client import AsyncClient, Client, RequestRejected, RetryPolicy, WrongBits

SHAPES = {"P": (4, 2), "Q": (8, 2), "S": (8, 2), "T": (600_000, 2)}
RANDOM = np.random.default_rng(3)
ARRAYS = [RANDOM.normal(size=shape).astype(np.float32) for shape in SHAPES.values()]
BLOB = b"".join(array.astype("<f4").tobytes() for array in ARRAYS)
SHA256 = sha256_of(BLOB)
TENSOR = {"name": "t", "shape": [600_000], "kind": "imported_hypernet", "l": 4, "r": 2, "hidden_dim": 8}
DRAWN = {"name": "d", "shape": [100_000], "l": 4, "r": 2, "hidden_dim": 8}
SPEC = {"name": "client/imported", "seed": 1, "tensors": [TENSOR | {"factors_sha256": SHA256}, DRAWN]}
W = {"t": [1.0, 2.0, -0.5, 0.25], "d": [1.0, 2.0, -0.5, 0.25]}


@pytest.fixture(params=["REST", "gRPC", "local"])
def client(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Client]:
    """Of a server, or a process, that has no factors yet."""
    if request.param == "local":
        with Client.local(tmp_path / "data") as client:
            yield client
        return
    with running_server(tmp_path / "data") as server:
        url = {"REST": server.url, "gRPC": f"grpc://{server.grpc_target}"}[request.param]
        with Client(url) as client:
            yield client


def file_of(folder: Path) -> Path:
    (folder / "blob").write_bytes(BLOB)
    return folder / "blob"


SOURCES: dict[str, Callable[[Path], Any]] = {
    "bytes": lambda folder: BLOB,
    "a file": file_of,
    "a file's name": lambda folder: str(file_of(folder)),
    "numpy": lambda folder: ARRAYS,
    "torch": lambda folder: [torch.from_numpy(array).requires_grad_() for array in ARRAYS],
    "columns": lambda folder: [np.asfortranarray(array) for array in ARRAYS],
}


def test_factors_are_uploaded_and_a_model_of_them_is_served(client: Client) -> None:
    assert client.put_factors(ARRAYS) == SHA256
    assert client.put_factors(BLOB) == SHA256, "they are there already"
    client.create_model(SPEC)
    made = client.fabricate("client/imported", W, verify="full")
    P, Q, S, T = (array.astype(np.float64) for array in ARRAYS)
    hidden = 1 / (1 + np.exp(-(np.array(W["t"]) @ P) @ Q.T))
    assert np.allclose(made["t"], T @ (hidden @ S), rtol=1e-5, atol=1e-5)


def test_a_model_whose_factors_are_missing_is_refused(client: Client) -> None:
    for call in (lambda: client.create_model(SPEC), lambda: client.fabricate(SPEC, W, verify="off")):
        with pytest.raises(RequestRejected, match="factors_sha256") as caught:
            call()
        assert caught.value.code == "factors_missing"


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
def test_factors_come_from_whatever_holds_them(source: Callable[[Path], Any], tmp_path: Path) -> None:
    with Client.local() as client:
        assert client.put_factors(source(tmp_path)) == SHA256
        assert set(client.fabricate(SPEC, W)) == {"t", "d"}


@pytest.mark.parametrize("array", [np.ones(4), torch.ones(4, dtype=torch.float64), np.ones(4, np.int64)], ids=str)
def test_what_float32_cannot_hold_is_not_rounded_in_silence(array: Any) -> None:
    with Client.local() as client, pytest.raises(TypeError, match="expected float32"):
        client.put_factors([array])


def test_numbers_that_no_model_may_have_are_refused(client: Client) -> None:
    with pytest.raises(RequestRejected, match="float32 numbers from") as caught:
        client.put_factors([np.array([np.inf], np.float32)])
    assert caught.value.code == "factors_not_finite"


def test_an_upload_beyond_the_limit_is_told_while_it_is_sent(tmp_path: Path) -> None:
    with running_server(tmp_path / "data", max_factors_bytes=1000) as server:
        for url in (server.url, f"grpc://{server.grpc_target}"):
            with Client(url) as client, pytest.raises(RequestRejected, match="max_factors_bytes"):
                client.put_factors(bytes(64 << 20))


def test_an_upload_is_tried_again(tmp_path: Path) -> None:
    with running_server(tmp_path / "data") as server, proxy_to(server.url, cut(10), faults=2) as proxy:
        with Client(proxy.url, retries=RetryPolicy(first_pause=0.01)) as client:
            assert client.put_factors(BLOB) == SHA256
        assert proxy.connections >= 3


def test_uploads_are_there_for_asyncio_too(server: Server) -> None:
    async def main() -> str:
        async with AsyncClient(server.url) as client:
            return await client.put_factors(BLOB)

    assert asyncio.run(main()) == SHA256


def test_what_is_drawn_beside_imported_tensors_is_still_verified(server: Server) -> None:
    with Client(server.url) as client:
        client.put_factors(BLOB)
    in_drawn = flip(4 * (600_000 + 100_000) - 1000)  # which is the file's last tensor
    with proxy_to(server.url, in_drawn, faults=9) as proxy, Client(proxy.url) as client, pytest.raises(WrongBits):
        client.fabricate(SPEC, W, verify="full")
