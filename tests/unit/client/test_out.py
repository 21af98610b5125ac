"""Weights received into arrays that are there already."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from support.server import Server
from weightloom_client import AsyncClient, Client

SPEC = {
    "name": "out",
    "seed": 5,
    "tensors": [
        {"name": "a", "shape": [700, 600], "l": 4},
        {"name": "b", "shape": [3], "kind": "identity"},
        {"name": "c", "shape": [5000, 1100], "l": 4},  # 22 MB: in stripes where there are replicas
    ],
}


def w(value: float) -> dict[str, Any]:
    return {"a": [value, 1, 2, 3], "b": [value] * 3, "c": [1, value, 2, 3]}


@pytest.fixture(params=["one", "two", "grpc", "local"])
def client(request: pytest.FixtureRequest, server: Server) -> Iterator[Client]:
    urls = {"one": [server.url], "two": [server.url] * 2, "grpc": [f"grpc://{server.grpc_target}"]}
    with Client.local() if request.param == "local" else Client(urls[request.param]) as client:
        yield client


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_arrays_of_an_earlier_call_are_filled_in_place(client: Client, dtype: str) -> None:
    weights = client.fabricate(SPEC, w(1), dtype=dtype)
    apart = {name: array.copy() for name, array in weights.items()}
    expected = client.fabricate(SPEC, w(2), dtype=dtype)
    for out in (weights, apart):
        before = [array.ctypes.data for array in out.values()]
        made = client.fabricate(SPEC, w(2), dtype=dtype, out=out, verify="full")
        assert [array.ctypes.data for array in made.values()] == before
        assert all(made[name].tobytes() == expected[name].tobytes() for name in expected)


def test_a_torch_module_is_filled_where_it_lies() -> None:
    net = torch.nn.Linear(30, 20)
    tensors = [{"name": "weight", "shape": [20, 30], "l": 2}, {"name": "bias", "shape": [20], "kind": "constant"}]
    spec = {"name": "net", "seed": 1, "tensors": [tensors[0], tensors[1] | {"value": "ones"}]}
    with Client.local() as client:
        expected = client.fabricate(spec, {"weight": [1, 2]})
        client.fabricate(spec, {"weight": [1, 2]}, out={k: v.numpy() for k, v in net.state_dict().items()})
    assert np.array_equal(net.weight.detach().numpy(), expected["weight"])
    assert net.bias.detach().eq(1).all()


def arrays(**changed: Any) -> dict[str, Any]:
    shapes = {tensor["name"]: tensor["shape"] for tensor in SPEC["tensors"]}  # type: ignore[attr-defined]
    made = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()} | changed
    return {name: array for name, array in made.items() if array is not None}


READ_ONLY = np.zeros(3, np.float32)
READ_ONLY.flags.writeable = False


@pytest.mark.parametrize(
    ("out", "complaint"),
    [
        (arrays(b=None), r"out\['b'\]: got nothing"),
        (arrays(z=np.zeros(1)), r"out\['z'\]: got an array for no tensor"),
        (arrays(b=np.zeros(4, np.float32)), r"out\['b'\]: got float32 \[4\], expected float32 \[3\]"),
        (arrays(b=np.zeros(3)), r"out\['b'\]: got float64 \[3\], expected float32 \[3\]"),
        (arrays(b=[0, 0, 0]), r"out\['b'\]: got list"),
        (arrays(b=np.zeros(6, np.float32)[::2]), r"out\['b'\]: got a view with gaps"),
        (arrays(b=READ_ONLY), r"out\['b'\]: got a view with gaps or read-only"),
    ],
)
def test_arrays_that_cannot_hold_the_weights_are_named(out: dict[str, Any], complaint: str) -> None:
    with Client.local() as client, pytest.raises(ValueError, match=complaint):
        client.fabricate(SPEC, w(1), out=out)
    assert not np.any(out["a"]), "nothing was written"


def test_asyncio_fills_arrays_too(server: Server) -> None:
    out = arrays()

    async def main() -> Any:
        async with AsyncClient(server.url) as client:
            return await client.fabricate(SPEC, w(3), out=out)

    assert asyncio.run(main())["c"] is out["c"]
    assert np.any(out["c"])
