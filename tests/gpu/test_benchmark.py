"""``benchmarks/gpu.py`` works: a little of everything, through Triton's interpreter. What it measures means nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from weightloom.fabric.gpu.finding import driver_has_gpus

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu.py"
pytestmark = pytest.mark.timeout(1200)  # minutes on a busy machine
ROWS = {
    "checks": ("normals", "fabricate", "random shapes"),
    "machine": ("large copy", "large fill", "copy to pinned", "issue slots"),
    "kernels": ("virtual, r = 1,", "virtual, r = 8, 16 w's", "virtual, r = 2, BF16", "kept, r = 8, 4 w's", "torch mm"),
    "goals": ("virtual, r = 2", "kept, r = 8"),
    "device": ("virtual, r = 2", "kept, r = 2"),
    "REST": ("loopback", "cuda, virtual", "cuda, resident", "cpu, virtual", "cpu, resident"),
}


def benchmark(*options: str, interpret: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"TRITON_INTERPRET": interpret}
    command = [sys.executable, str(SCRIPT), *options]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def test_it_checks_and_measures_everything_in_one_table(tmp_path: Path) -> None:
    done = benchmark("--quick", "--out", str(tmp_path / "table.md"), interpret="1")
    assert done.returncode == 0, done.stdout + done.stderr
    table = (tmp_path / "table.md").read_text()
    assert table in done.stdout
    lines = [tuple(map(str.strip, line.strip("|").split("|"))) for line in table.splitlines() if line.startswith("| ")]
    assert {len(line) for line in lines} == {8}
    for part, beginnings in ROWS.items():
        for beginning in beginnings:
            assert any(line[0] == part and beginning in line[1] for line in lines), (part, beginning)


@pytest.mark.skipif(driver_has_gpus(), reason="needs a machine without a GPU")
def test_without_a_gpu_it_says_so_in_one_line() -> None:
    done = benchmark(interpret="0")
    assert (done.returncode, done.stdout.count("\n")) == (2, 1)
    assert "no GPU" in done.stdout
