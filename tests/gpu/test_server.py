"""A real server on the GPU (or its stand-in): the same bytes by every way, told as what it is."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.server import Server, running_server
from support.vectors import KNOWN_FILES
from weightloom.fabric import DType, VirtualFile
from weightloom_client import Client

KNOWN = next(known for known in KNOWN_FILES if known.entry["r"] == 3)
W = {KNOWN.tensor: KNOWN.w}
LARGE = KNOWN.model | {"tensors": [{"name": KNOWN.tensor, "shape": [200, 1000], "l": len(KNOWN.w), "r": 2}]}


@pytest.fixture(scope="module")
def on_gpu(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running_server(tmp_path_factory.mktemp("gpu") / "data", device="cuda", gpu_factor_bytes=8 << 20) as server:
        yield server


def whole(model: dict[str, object], dtype: DType) -> str:
    from weightloom.fabric import ModelSpec

    file = VirtualFile(ModelSpec.from_value(model), W, dtype=dtype)
    return hashlib.sha256(file.read(0, file.size)).hexdigest()


@pytest.mark.parametrize("dtype", DType)
def test_rest_and_grpc_give_the_processor_s_bytes(on_gpu: Server, dtype: DType, tmp_path: Path) -> None:
    for url in (on_gpu.url, f"grpc://{on_gpu.grpc_target}"):
        with Client(url) as client:
            client.download(LARGE, W, tmp_path / "f", dtype=dtype, verify="full")
        assert hashlib.sha256((tmp_path / "f").read_bytes()).hexdigest() == whole(LARGE, dtype)


def test_a_known_file(on_gpu: Server, tmp_path: Path) -> None:
    with Client(on_gpu.url) as client:
        client.download(KNOWN.model, W, tmp_path / "f")
    first, last = KNOWN.entry["elements"]
    data = (tmp_path / "f").read_bytes()[-4 * 129 * 257 :][4 * first : 4 * last]
    assert hashlib.sha256(data).hexdigest() == KNOWN.entry["sha256"]["F32"]


def test_it_says_where_it_works(on_gpu: Server) -> None:
    info = on_gpu.request("GET", "/v1/info").json()
    assert (info["device"], info["backend"]) == ("cuda:0", "cuda")
    assert info["limits"]["tile_bytes"] == 4 << 20
    assert on_gpu.request("GET", "/readyz").json() == {"status": "ready"}


def test_a_resident_t_lies_on_the_gpu(on_gpu: Server) -> None:
    model = LARGE | {"name": "gpu/resident"}
    with Client(on_gpu.url) as client:
        client.create_model(model)
        client.set_residency("gpu/resident", "resident")
        for _ in range(2):
            client.fabricate("gpu/resident", W, verify="full")
        assert client.get_model("gpu/resident")["resident_bytes"] >= 4 * 2 * 200_000
    metrics = on_gpu.request("GET", "/metrics").data.decode()
    assert 'weightloom_factor_store_bytes{store="T cuda:0"} 1.6' in metrics


@pytest.mark.parametrize("device", ["cuda:7", "tpu"])
def test_a_device_that_is_not_there_is_told_at_the_start(device: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "weightloom", "serve", "--device", device, "--data-dir", str(tmp_path)]
    told = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert told.returncode != 0
    assert "device" in told.stderr
