"""The kernels alone, on buffers of the GPU as large as a whole launch, against their floors and against torch.

A launch makes all of W (or of 16 W's: 2^30 elements, so offsets fit in 32 bits and nothing is split). Each has a new h
and an output that was poisoned before, outside of the timed region. torch has T stored on the same GPU, of random
numbers, and writes into the same kind of outputs, without TF32: ``mm`` is the formula h @ T.T, which ratios are
against; ``mv`` is T @ h, which torch has for one w alone and a user could write as well.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from common import note
from gpu_checks import CheckFailed, check_ranges
from gpu_clock import DEVICE, ROTATED, WARM_UP, Outputs, Plan, free_bytes, milliseconds, release
from gpu_floors import Case, Machine
from gpu_table import Line
from weightloom.fabric import kernels_cuda as kernels
from weightloom.fabric.dtypes import DType
from weightloom.fabric.factors import Factors

__all__ = ["run"]

SPARE = 1 << 30  # bytes of the GPU's memory that stay free
GOALS_TO_TORCH = {2: 1.0, 64: 0.7}
OF_BANDWIDTH, BATCH_GOAL = 0.85, 1.5

Work = Callable[[Any, Any], Any]  # from an output and an h


def cases_of(plan: Plan) -> list[Case]:
    """By form and r, so that each T is made once."""
    halves = [Case("virtual", 2, 1, dtype) for dtype in (DType.F16, DType.BF16) if 2 in plan.virtual]
    virtual = [Case("virtual", r, batch) for r in plan.virtual for batch in _batches(r in {8, 64})]
    kept = [Case("kept", r, batch) for r in plan.kept for batch in _batches(r == 8)]
    stored = [Case("torch mm", r, batch) for r in plan.stored for batch in _batches(r in {8, 64})]
    vectors = [Case("torch mv", r) for r in plan.stored]
    return virtual + halves + kept + sorted(stored + vectors, key=lambda case: case.r)


def _batches(has_many: bool) -> tuple[int, ...]:
    return kernels.BATCHES if has_many else (1,)


def run(plan: Plan, machine: Machine) -> list[Line]:
    """A line for each case, then the goals. Raises CheckFailed."""
    torch.set_float32_matmul_precision("highest")
    numel, cases = plan.side**2, cases_of(plan)
    for case in cases:
        note(f"{case.name}: {machine.floor(case, numel).remark}")
    measured = dict(_measured(cases, plan))
    lines = [_line(case, measured, machine, numel, plan.side) for case in cases]
    return lines + _goals(measured, machine, numel)


def _measured(cases: list[Case], plan: Plan) -> Iterator[tuple[Case, float | str]]:
    """Milliseconds of each case, or why there are none."""
    t, made_for = None, None
    for case in cases:
        if made_for != (case.form[:5], case.r):
            t = None
            release()
        try:
            if t is None:
                t, made_for = _t_of(case, plan.side**2), (case.form[:5], case.r)
            result: float | str = _time(case, t, plan)
        except (MemoryError, RuntimeError) as error:
            if case.is_ours and not isinstance(error, MemoryError | torch.OutOfMemoryError):
                raise
            result = f"left out: {str(error).partition(chr(10))[0]}"
        note(f"{case.name}: {result if isinstance(result, str) else f'{result:.4g} ms'}")
        yield case, result


def _t_of(case: Case, numel: int) -> Any:
    """What the case reads: the factors of a virtual T, planes (4 r, groups), or a stored T (numel, r)."""
    _need(case.bytes_of_t(numel))
    factors = Factors(1, "benchmark", 4, case.r, 8, numel)
    if case.form == "virtual":
        return factors
    if case.form == "kept":
        planes = torch.empty((4 * case.r, numel // 4), dtype=torch.float32, device=DEVICE)
        kernels.draw(planes, factors.t, 0, numel // 4)
        return planes
    return torch.empty((numel, case.r), device=DEVICE).normal_()


def _need(size: int) -> None:
    if size + SPARE > free_bytes() + (SPARE if kernels.INTERPRETED else 0):
        raise MemoryError(f"needs {size / 1e9:.1f} GB of the GPU, {free_bytes() / 1e9:.1f} are free")


def _time(case: Case, t: Any, plan: Plan) -> float:
    """The median of the launches, after a check of the bits. Raises MemoryError, CheckFailed."""
    numel = plan.side**2
    size = case.batch * kernels.rows_of(case.batch, numel // 4) * case.dtype.itemsize
    release()
    _need(ROTATED * size)
    outputs, work = Outputs(size), _work(case, t, numel)
    # Each is an allocation of its own, aligned like those of the engine: Triton compiles for an alignment.
    hs = [torch.randn(case.r, case.batch, device=DEVICE) for _ in range(plan.repeats + WARM_UP)]
    if case.is_ours:
        _check(case, outputs, lambda out: work(out, hs[0]), hs[0], numel)
    return milliseconds(lambda turn: work(outputs[turn], hs[turn]), plan.repeats, outputs.poison)


def _check(case: Case, outputs: Outputs, launch: Callable[[Any], Any], h: Any, numel: int) -> None:
    try:
        outputs.check_written(launch)
    except ValueError as error:
        raise CheckFailed(f"{case.name}: {error}") from error
    check_ranges(outputs[0], case, h, Factors(1, "benchmark", 4, case.r, 8, numel))


def _work(case: Case, t: Any, numel: int) -> Work:
    if case.form == "virtual":
        return lambda out, h: kernels.weave(out, case.dtype, h, case.batch, t.t, 0, numel // 4, case.r)
    if case.form == "kept":
        return lambda out, h: kernels.read(out, case.dtype, h, case.batch, t, 0, numel // 4)
    shape = case.batch, numel
    if case.form == "torch mv":
        return lambda out, h: torch.mv(t, h[:, 0], out=_floats(out, shape)[0])
    return lambda out, h: torch.matmul(h.T, t.T, out=_floats(out, shape))


def _floats(out: Any, shape: tuple[int, int]) -> Any:
    return out.view(torch.float32)[: math.prod(shape)].view(shape)


def _line(case: Case, measured: dict[Case, float | str], machine: Machine, numel: int, side: int) -> Line:
    floor, what, ms = machine.floor(case, numel), f"{case.name}, {side} × {side}", measured[case]
    if isinstance(ms, str):
        return Line("kernels", what, ms, floor.ms)
    rate = case.bytes_of_w(numel) / ms / 1e6
    return Line("kernels", what, floor.remark, floor.ms, ms, rate, _to_torch(case, measured))


def _to_torch(case: Case, measured: dict[Case, float | str]) -> float | None:
    """torch's time by the formula over this case's, where both were measured."""
    ours = measured.get(case) if case.dtype is DType.F32 else None
    torchs = measured.get(Case("torch mm", case.r, case.batch))
    return torchs / ours if isinstance(ours, float) and isinstance(torchs, float) else None


def _goals(measured: dict[Case, float | str], machine: Machine, numel: int) -> list[Line]:
    """Those whose cases were measured."""
    lines = []
    for r, goal in GOALS_TO_TORCH.items():
        ratio = _to_torch(Case("virtual", r), measured)
        if ratio is not None:
            lines.append(Line.goal(f"virtual, r = {r}: torch's time over ours", ratio, ratio >= goal, f"≥ {goal} ×"))
    for case, ms in measured.items():
        if case.form == "kept" and case.batch == 1 and isinstance(ms, float):
            moved = case.bytes_of_w(numel) + case.bytes_of_t(numel)
            share = 1e3 * moved / ms / machine.bandwidth
            lines.append(
                Line.goal(f"{case.name}: of measured bandwidth", share, share >= OF_BANDWIDTH, f"≥ {OF_BANDWIDTH}")
            )
    one, many = measured.get(Case("virtual", 64)), measured.get(Case("virtual", 64, 16))
    if isinstance(one, float) and isinstance(many, float):
        lines.append(
            Line.goal("virtual, r = 64: 16 w's over one", many / one, many / one <= BATCH_GOAL, f"≤ {BATCH_GOAL} ×")
        )
    return lines
