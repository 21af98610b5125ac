"""Before anything is timed: the GPU's bits are those of the contract and of the processor's backend.

Outputs are poisoned first, and all of their bytes are compared, so an element that is not written is found.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from typing import Any

import numpy as np
from common import note
from gpu_clock import POISONS, Plan
from gpu_table import Line
from support.vectors import KNOWN_FILES, VECTORS, KnownFile, bits
from weightloom.fabric import DType, load_backend
from weightloom.fabric import kernels_cuda as kernels
from weightloom.fabric.factors import Factors
from weightloom.fabric.gpu.device import Cuda
from weightloom.fabric.gpu.gpu import Gpu
from weightloom.fabric.passes import Piece
from weightloom.fabric.streams import factor_stream

__all__ = ["CheckFailed", "check_ranges", "piece", "run"]

BUDGET = 1 << 30
KEPT_NORMALS = 1 << 24  # of a T that is kept for a check
RANKS = (*range(1, 14), 16, 30, 64)
FAR = (0, 0, 2**34 - 2, 2**40 + 1, 2**47)  # where ranges begin, about
SIZES = (1.0, 1.0, 1e-39, 1e-8, 3e4, 1e30)  # of h: W is subnormal, or overflows float16


class CheckFailed(Exception):
    """The GPU makes other bits."""


def piece(start: int, dtype: DType, rows: int, count: int, pattern: int = POISONS[0]) -> Piece:
    """Memory for elements ``start`` ..., poisoned."""
    out = np.full((rows, count * dtype.itemsize), pattern, np.uint8).view(dtype.storage)
    return Piece(None, 0, start, dtype, out)  # type: ignore[arg-type]


def run(plan: Plan) -> list[Line]:
    """A line for each kind of check. Raises CheckFailed."""
    began = time.perf_counter()
    Cuda(["cuda:0"], load_backend(), BUDGET).warm_up()
    note(f"warm-up, the start of a server: {time.perf_counter() - began:.1f} s")
    gpu = Gpu("cuda:0", BUDGET)
    lines = [
        Line("checks", "warm-up: compile or load all kernels, compare bits", f"{time.perf_counter() - began:.1f} s"),
        Line("checks", "tests/vectors.json: normals", f"{_normals(gpu)} right"),
        Line("checks", "tests/vectors.json: fabricate, 3 dtypes, virtual and kept", _fabricate(gpu, plan.known)),
    ]
    first = secrets.randbits(63)
    note(f"random checks: {plan.random} seeds from {first} on")
    elements = sum(_random(gpu, first + i, plan.most) for i in range(plan.random))
    right = f"{plan.random} right, {elements} elements; seeds from {first} on"
    backend = load_backend().NAME
    return [*lines, Line("checks", f"random shapes, dtypes, ranges and batches against {backend}", right)]


def _normals(gpu: Gpu) -> int:
    for entry in VECTORS["normals"]:
        stream = factor_stream(int(entry["seed"]), entry["tensor"], entry["factor"])
        if bits(gpu.normals(stream, int(entry["start"]), len(entry["float32_bits"]))) != entry["float32_bits"]:
            raise CheckFailed(f"normals of {entry['tensor']} {entry['factor']} from {entry['start']} on")
    return len(VECTORS["normals"])


def _fabricate(gpu: Gpu, most: int) -> str:
    done, left_out = 0, 0
    for known in KNOWN_FILES:
        factors, h = _known(known)
        if factors.numel * factors.r > most:
            left_out += 1
            continue
        for dtype in DType:
            for kept in (None, gpu.new_t(factors)) if factors.numel * factors.r <= KEPT_NORMALS else (None,):
                for _ in range(1 if kept is None else 2):  # T is built; T is read
                    _check_known(known, gpu, factors, h, dtype, kept)
                    done += 1
    return f"{done} right" + (f", {left_out} of {len(KNOWN_FILES)} files left out" if left_out else "")


def _known(known: KnownFile) -> tuple[Factors, Any]:
    entry = known.entry
    sizes = entry["l"], entry["r"], entry["hidden_dim"], int(np.prod(entry["shape"]))
    factors = Factors(int(entry["seed"]), known.tensor, *sizes)
    return factors, load_backend().hidden(factors, known.w[None], entry["scale"], None)


def _check_known(known: KnownFile, gpu: Gpu, factors: Factors, h: Any, dtype: DType, kept: Any) -> None:
    first, last = known.entry["elements"]
    made = piece(first, dtype, 1, last - first)
    gpu.weave(factors, h, [made], kept)
    if hashlib.sha256(made.out.tobytes()).hexdigest() != known.entry["sha256"][dtype]:
        raise CheckFailed(f"{known.tensor}, {dtype}, {'virtual' if kept is None else 'kept'}")


def _random(gpu: Gpu, seed: int, most: int) -> int:
    """One random pass of several dtypes, virtual and (where it is near the beginning) kept: elements compared."""
    random = np.random.default_rng(seed)
    r, start = int(random.choice(RANKS)), int(random.choice(FAR)) + int(random.integers(0, 3000))
    count = int(random.integers(1, max(2, most // r)))
    wanted = [(list(DType)[random.integers(3)], int(random.integers(1, 18))) for _ in range(random.integers(1, 4))]
    factors = Factors(seed, "random", 4, r, 8, start + count)
    size = random.choice(SIZES)
    h = (random.standard_normal((sum(rows for _, rows in wanted), r)) * size).astype(np.float32)
    expected = [piece(start, dtype, rows, count, POISONS[1]) for dtype, rows in wanted]
    load_backend().weave(factors, h, expected, None)
    kept = gpu.new_t(factors) if factors.numel * r <= KEPT_NORMALS else None
    for t in (None,) if kept is None else (None, kept, kept):
        made = [piece(start, dtype, rows, count) for dtype, rows in wanted]
        gpu.weave(factors, h, made, t)
        if any(one.out.tobytes() != other.out.tobytes() for one, other in zip(made, expected, strict=True)):
            how = "virtual" if t is None else "kept"
            raise CheckFailed(f"{how}, seed {seed}: r = {r}, {start} + {count}, {wanted}, h x {size}")
    return int(sum(one.out.size for one in expected)) * (1 if kept is None else 3)


def check_ranges(out: Any, case: Any, h: Any, factors: Factors) -> None:
    """Both ends of a large launch's rows against the processor. out: bytes on the GPU; h: float32 (r, B) there."""
    numel, itemsize = factors.numel, case.dtype.itemsize
    width, count = kernels.rows_of(h.shape[1], numel // 4), min(5000, numel)
    rows = out[: case.batch * width * itemsize].view(case.batch, width * itemsize)
    on_host = np.ascontiguousarray(h.cpu().numpy().T)[: case.batch]
    for start in (0, numel - count):
        expected = piece(start, case.dtype, case.batch, count)
        load_backend().weave(factors, on_host, [expected], None)
        made = rows[:, start * itemsize : (start + count) * itemsize].cpu().numpy()
        if made.tobytes() != expected.out.tobytes():
            raise CheckFailed(f"{case.name}: elements {start} ... of a large launch")
