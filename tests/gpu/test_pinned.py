"""Pinned memory is used again once nobody sees it, and does without it where there is none."""

from __future__ import annotations

import gc

import numpy as np
import pytest
import torch
from weightloom.fabric import load_backend
from weightloom.fabric.gpu import pinned
from weightloom.fabric.gpu.device import Cuda
from weightloom.fabric.gpu.pinned import Pinned

SIZE, GPU = 1 << 14, torch.device("cuda:0")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Addresses that CUDA was asked to pin."""
    addresses = list[int]()

    def pin(block: pinned.Bytes, device: torch.device) -> str:
        addresses.append(block.ctypes.data)
        return ""

    monkeypatch.setattr(pinned, "_pin", pin)
    return addresses


def test_a_block_is_pinned_once_and_used_again_when_its_last_view_is_gone(asked: list[int]) -> None:
    memory = Pinned()
    block = memory.take(SIZE, GPU)
    assert block is not None
    assert (len(block), block.ctypes.data % 4096, asked) == (SIZE, 0, [block.ctypes.data])
    view = block[10:20].view(np.int16)
    del block
    gc.collect()
    other = memory.take(SIZE, GPU)
    assert len(asked) == 2
    del view
    gc.collect()
    again = memory.take(SIZE, GPU)
    assert again is not None
    assert other is not None
    assert [again.ctypes.data, other.ctypes.data] == asked
    assert memory.take(2 * SIZE, GPU) is not None
    assert len(asked) == 3


def test_what_cannot_be_pinned_is_told_once(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(pinned, "_pin", lambda block, device: "CUDA error 2")
    memory = Pinned()
    assert memory.take(SIZE, GPU) is None
    assert memory.take(SIZE, GPU) is None
    assert caplog.text.count("CUDA error 2") == 1


@pytest.mark.parametrize("lost", [False, True])
def test_tiles_have_memory_though_none_is_pinned(lost: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU: an error of an earlier launch shows here first, or the GPU is known to be lost."""
    device = Cuda(["cuda:0"], load_backend(), 1 << 20)
    device.gpus[0].device, device.gpus[0].lost = GPU, "an illegal memory access" if lost else ""

    def cudart() -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(torch.cuda, "cudart", cudart)
    block = device.host_block(SIZE)
    block[:] = 1
    assert (len(block), block.ctypes.data % 64) == (SIZE, 0)
