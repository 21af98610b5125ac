"""One answer of the numeric contract, by which a server proves that its arithmetic is right before it says ready."""

from __future__ import annotations

import hashlib

import numpy as np

from weightloom.errors import Unavailable
from weightloom.fabric import Backend, DType, ModelSpec, VirtualFile
from weightloom.fabric.device import Device
from weightloom.fabric.kinds import RandomMatrixHypernet

__all__ = ["KNOWN_ANSWER", "check_known_answer"]

# From vectors.json: seed 3, tensor conv.weight, every element in each dtype.
KNOWN_ANSWER = ModelSpec(
    name="known-answer",
    seed=3,
    tensors=(RandomMatrixHypernet(name="conv.weight", shape=(16, 3, 5, 5), l=8, r=5, hidden_dim=33, scale=0.01),),
)
W_BITS = (0x3F791848, 0xBFB17517, 0x3F5C49C7, 0x3F08A26A, 0x3F7135E9, 0xBFE7A893, 0x3EFA8E12, 0xBE9ABC35)
SHA256 = {
    DType.F32: "2808c8595ac4868239127ac744736fe1b148c7b2d40410b3a9f1062e23ced567",
    DType.F16: "f01374787891d8d2297657fb0539bd469e62ff4ad2cf66a8cda6311821984709",
    DType.BF16: "2c87de44ed1bd1b07c92b8ec18b38916d6585a1950b0daab7f3b737fb43615a8",
}


def check_known_answer(device: Device) -> None:
    """Raise Unavailable unless all of the device reproduces the answer in all dtypes; takes a millisecond or two."""
    for backend in device.probes():
        _check(backend)


def _check(backend: Backend) -> None:
    w = np.array(W_BITS, np.uint32).view(np.float32)
    for dtype, expected in SHA256.items():
        file = VirtualFile(KNOWN_ANSWER, {"conv.weight": w}, dtype=dtype, backend=backend)
        made = hashlib.sha256(file.read(len(file.header), file.size - len(file.header))).hexdigest()
        if made != expected:
            message = f"backend {backend.NAME} makes wrong bits in {dtype}: got {made}, expected {expected}"
            raise Unavailable(message, code="wrong_bits")
