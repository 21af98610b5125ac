"""The kernels as compiled for NVIDIA's GPUs: right bits, every float step on its own; seen without a GPU."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SECONDS = 1000  # for the compiler and all its variants, on a busy machine
pytestmark = pytest.mark.timeout(1200)
linux = pytest.mark.skipif(platform.system() != "Linux", reason="Triton's compiler is for Linux")


def program(*arguments: str, path: str = "benchmarks/gpu_code.py") -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"TRITON_INTERPRET": "0", "PYTHONPATH": str(ROOT / "benchmarks")}
    command = [sys.executable, str(ROOT / path), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=SECONDS)


@linux
@pytest.mark.parametrize("capability", ["90", "100"])
def test_nothing_is_fused_flushed_or_approximate(capability: str) -> None:
    told = program("--check", "--capability", capability)
    assert (told.returncode, told.stdout) == (0, "31 variants: as the contract wants it\n"), told.stdout + told.stderr


@linux
@pytest.mark.parametrize("capability", ["80", "90", "100"])
def test_the_compiled_code_gives_the_bits_of_the_reference(capability: str) -> None:
    """Its PTX, run on the processor: all variants, with blocks beyond 2^32, subnormal numbers and padded batches."""
    told = program(capability, path="tests/support/run_ptx.py")
    assert (told.returncode, told.stdout) == (0, "31 variants give the reference's bits\n"), told.stdout + told.stderr


@linux
def test_the_instructions_for_a_normal_number_are_counted() -> None:
    told = program()
    assert told.returncode == 0, told.stderr
    one, many = (float(row.split("|")[-2]) for row in told.stdout.splitlines() if row.startswith(("| 1 ", "| 16 ")))
    assert 40 < one < 60 < many < 90
