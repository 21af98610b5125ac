"""Compiles every variant of the kernels for a GPU and runs the PTX on the processor, against the reference.

A program of its own, since kernels that Triton interprets cannot be compiled in the same process.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from gpu_code import compiled, variants
from ptx import Machine
from weightloom.fabric import DType, kernels_cuda, reference, streams
from weightloom.fabric.factors import Factors
from weightloom.fabric.passes import Piece

FIRST, PROGRAMS = 2**33 + 5, 2  # group; a block's number takes more than 32 bits
SIZES = {DType.F32: 1.0, DType.F16: 3e4, DType.BF16: 1e-39}  # of h: float16 overflows, bfloat16 is subnormal


def machine(kernel: Any, constants: dict[str, Any], arguments: dict[str, Any], capability: int) -> Machine:
    code = compiled(kernel, constants, capability)
    given = [arguments[name] for name in kernel.arg_names if name not in constants]
    return Machine(code.asm["ptx"], given, code.metadata.shared)


def expected(factors: Factors, h: Any, dtype: DType, count: int) -> Any:
    out = np.empty((len(h), count), dtype.storage)
    reference.weave(factors, h, [Piece(None, 0, 4 * FIRST, dtype, out)])  # type: ignore[arg-type]
    return out


def check_weave(kernel: Any, constants: dict[str, Any], r: int, dtype: DType, capability: int) -> None:
    b, groups = constants["B"], constants["GROUPS"]
    batch, count = max(1, b - 1), 4 * groups * PROGRAMS
    factors = Factors(2**64 - 7, f"t{r}", 1, r, 1, 4 * FIRST + count)
    h = (np.random.default_rng(r).standard_normal((batch, r)) * SIZES[dtype]).astype(np.float32)
    padded = np.zeros((r, b), np.float32)
    padded[:, :batch] = h.T
    out = np.full(b * count, 0xABABABAB, np.uint32).view(np.float32)
    total = groups * PROGRAMS - 3  # the last groups of a kept T are not there
    planes = streams.normals(factors.t, FIRST * 4 * r, 4 * r * total).reshape(total, 4 * r).T.copy()
    first = 0 if "planes" in kernel.arg_names else FIRST
    run = machine(kernel, constants, numbers(factors) | {
        "out32": out, "out16": out, "form": kernels_cuda.FORMS[dtype], "batch": batch, "h": padded, "first": first,
        "r": r, "planes": planes, "total": total,
    }, capability)  # fmt: skip
    for program in range(PROGRAMS):
        run.run(program, PROGRAMS)
    there = 4 * total if "planes" in kernel.arg_names else count
    made = out.view(dtype.storage)[: batch * count].reshape(batch, count)[:, :there]
    assert made.tobytes() == expected(factors, h, dtype, count)[:, :there].tobytes()
    assert (out.view(np.uint8)[batch * count * dtype.itemsize :] == 0xAB).all(), "written behind the end"


def check_draw(kernel: Any, constants: dict[str, Any], r: int, capability: int) -> None:
    factors, groups = Factors(2**63 + 1, "t", 1, r, 1, 8), constants["GROUPS"] * PROGRAMS - 5
    planes = np.zeros((4 * r, groups + 2), np.float32)
    run = machine(kernel, constants, numbers(factors) | {
        "planes": planes, "first": FIRST, "r": r, "groups": groups, "total": groups + 2,
    }, capability)  # fmt: skip
    for program in range(PROGRAMS):
        run.run(program, PROGRAMS)
    drawn = streams.normals(factors.t, FIRST * 4 * r, 4 * r * groups).reshape(groups, 4 * r).T
    assert planes[:, :groups].tobytes() == drawn.tobytes()
    assert not planes[:, groups:].any()


def numbers(factors: Factors) -> dict[str, int]:
    names = ("seed0", "seed1", "stream0", "stream1")
    return dict(zip(names, kernels_cuda._halves(factors.t), strict=True))


def main(capability: int) -> None:
    for kernel, constants in variants():
        for r in [constants["R"]] if "R" in constants else (8, 32) if constants.get("ALIGNED") else (9, 30):
            if kernel is kernels_cuda._draw:
                check_draw(kernel, constants, r, capability)
            else:
                for dtype in DType:
                    check_weave(kernel, constants, r, dtype, capability)
    sys.stdout.write(f"{len(variants())} variants give the reference's bits\n")


if __name__ == "__main__":
    main(int(sys.argv[1]))
