"""Tests of the GPU's kernels and device: on a GPU where there is one, through Triton's interpreter everywhere else.

They run in a process of their own (``make test`` starts one), since Triton decides when it is imported.
"""

from __future__ import annotations

import os
import sys

import pytest
from weightloom.fabric.gpu.finding import driver_has_gpus

if not driver_has_gpus():
    assert "triton" not in sys.modules, "start these tests alone: pytest tests/gpu"
    os.environ["TRITON_INTERPRET"] = "1"

from weightloom.fabric import load_backend
from weightloom.fabric.gpu.device import Cuda
from weightloom.fabric.gpu.gpu import Gpu

BUDGET = 64 << 20


@pytest.fixture(scope="session")
def gpu() -> Gpu:
    """A GPU."""
    return Gpu("cuda:0", BUDGET)


@pytest.fixture
def cuda() -> Cuda:
    """A device of one GPU, for which nothing is too little."""
    return Cuda(["cuda:0"], load_backend(), BUDGET, least_normals=0)
