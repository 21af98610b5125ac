"""What the GPU can do at the very best, from its own bandwidth and clock and from counts: floors for ``gpu_kernels``.

A floor is the larger of two times. Bytes: W is written once, a T that is kept (or stored, for torch) is read once, at
the bandwidth of a large copy, its reads and writes counted. Issue: each of an SM's four schedulers starts one
instruction for 32 lanes in a cycle. Multiplications of whole numbers and conversions take more than one of these slots,
so a kernel that draws cannot reach all of this floor.
"""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from typing import Any

import torch
from gpu_clock import DEVICE, Plan, milliseconds, wait
from gpu_table import Line
from weightloom.fabric import kernels_cuda as kernels
from weightloom.fabric.dtypes import DType
from weightloom.fabric.streams import FactorStream

__all__ = ["Case", "Floor", "Machine", "identify", "measure_machine"]

# Instructions of one lane, as ``python benchmarks/gpu_code.py`` counts them for sm_90: for a normal number 48.8 with
# one w and 77 with 16, of which a multiplication and an addition are each w's.
PER_NORMAL = 47
PER_NORMAL_AND_W = 2
PER_LOAD = 1
LANES = 4 * 32  # of an SM's schedulers
ASSUMED_CLOCK = 1.755e9
BUSY_LAUNCHES = 150


@dataclass(frozen=True)
class Case:
    """``batch`` W's over T of r columns: virtual, kept, or stored for torch, by ``torch.mm`` or ``torch.mv``."""

    form: str
    r: int
    batch: int = 1
    dtype: DType = DType.F32

    @property
    def is_ours(self) -> bool:
        """Whether it is no case of torch's."""
        return not self.form.startswith("torch")

    @property
    def name(self) -> str:
        """As in the table."""
        many = f", {self.batch} w's" if self.batch > 1 else ""
        return f"{self.form}, r = {self.r}{many}{'' if self.dtype is DType.F32 else ', ' + self.dtype}"

    def bytes_of_w(self, numel: int) -> int:
        """Written."""
        return self.batch * numel * self.dtype.itemsize

    def bytes_of_t(self, numel: int) -> int:
        """Read."""
        return 0 if self.form == "virtual" else 4 * numel * self.r


@dataclass(frozen=True)
class Floor:
    """Milliseconds that the bytes take, and the instructions."""

    bytes: float
    issue: float

    @property
    def ms(self) -> float:
        """Whichever takes longer."""
        return max(self.bytes, self.issue)

    @property
    def remark(self) -> str:
        """Which of them it is."""
        name = "bytes" if self.bytes >= self.issue else "issue slots"
        return f"floor: {name} (bytes {self.bytes:.3g} ms, issue {self.issue:.3g} ms)"


@dataclass(frozen=True)
class Machine:
    """Bytes and cycles per second."""

    sms: int
    clock: float
    clock_from: str
    bandwidth: float
    fill: float
    to_host: float

    def floor(self, case: Case, numel: int) -> Floor:
        """Of one launch."""
        normals = numel * case.r
        per_normal = {"virtual": PER_NORMAL, "kept": PER_LOAD}.get(case.form, 0) + PER_NORMAL_AND_W * case.batch
        slots = self.sms * LANES * self.clock if case.is_ours else float("inf")
        moved = case.bytes_of_w(numel) + case.bytes_of_t(numel)
        return Floor(1e3 * moved / self.bandwidth, 1e3 * normals * per_normal / slots)

    @property
    def lines(self) -> list[Line]:
        """What was read and measured."""
        clock = f"{self.sms} SMs at {self.clock / 1e6:.0f} MHz ({self.clock_from}), {LANES} lanes each"
        counts = f"{PER_NORMAL} instructions for a normal, {PER_NORMAL_AND_W} more for each w"
        return [
            Line("machine", "large copy on the GPU, read and written bytes", rate=self.bandwidth / 1e9),
            Line("machine", "large fill on the GPU", rate=self.fill / 1e9),
            Line("machine", "copy to pinned memory of the host", rate=self.to_host / 1e9),
            Line("machine", "issue slots", f"{clock}; {counts}"),
        ]


def measure_machine(plan: Plan) -> Machine:
    """Its bandwidths, and its clock under load."""
    sms = 1 if kernels.INTERPRETED else torch.cuda.get_device_properties(DEVICE).multi_processor_count
    return Machine(sms, *_clock(plan), *_bandwidths(plan))


def _bandwidths(plan: Plan) -> tuple[float, float, float]:
    """Bytes per second of a copy (read and written), a fill, and a copy to the host."""
    size = plan.copied
    source, target = (torch.empty(size, dtype=torch.uint8, device=DEVICE).fill_(i) for i in (1, 2))
    host = torch.empty(size // 8, dtype=torch.uint8, pin_memory=not kernels.INTERPRETED)
    copy = milliseconds(lambda turn: target.copy_(source), plan.repeats)
    fill = milliseconds(target.fill_, plan.repeats)
    to_host = milliseconds(lambda turn: host.copy_(source[: len(host)], non_blocking=True), plan.repeats)
    return 2e3 * size / copy, 1e3 * size / fill, 1e3 * len(host) / to_host


def identify() -> tuple[str, str]:
    """The GPU's name, and its driver's version."""
    if kernels.INTERPRETED:
        return "Triton's interpreter (its times mean nothing)", "none"
    told = _ask_driver("driver_version")
    return torch.cuda.get_device_name(DEVICE), told[0] if told else "unknown"


def _ask_driver(*fields: str) -> list[str]:
    """What nvidia-smi says; nothing where it is missing or does not know."""
    if kernels.INTERPRETED or shutil.which("nvidia-smi") is None:
        return []
    command = ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits", "--id=0"]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    parts = [part.strip() for part in told.stdout.strip().split(",")]
    return [] if told.returncode or len(parts) != len(fields) or "N/A" in told.stdout else parts


def _clock(plan: Plan) -> tuple[float, str]:
    """The SMs' Hz under load, and where that comes from."""
    if not kernels.INTERPRETED:
        _keep_busy(plan)
    told = _ask_driver("clocks.sm", "clocks.max.sm")
    wait()
    if not told:
        return ASSUMED_CLOCK, "assumed"
    return float(told[0]) * 1e6, f"nvidia-smi under load; at most {told[1]}"


def _keep_busy(plan: Plan) -> None:
    """Enqueue some seconds of work."""
    groups, h = plan.side**2 // 4, torch.randn(64, 1, device=DEVICE)
    out: Any = torch.empty(4 * kernels.rows_of(1, groups), dtype=torch.uint8, device=DEVICE)
    for _ in range(BUSY_LAUNCHES):
        kernels.weave(out, DType.F32, h, 1, FactorStream(1, 1), 0, groups, 64)
