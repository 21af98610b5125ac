"""What the Triton kernels become on an NVIDIA GPU: compiled and counted here, without one.

    python benchmarks/gpu_code.py            instructions for each normal number, from the machine code
    python benchmarks/gpu_code.py --check    all that is ever compiled: nothing is fused, flushed or approximate

A kernel's instructions are counted as the difference between two kernels that draw more and fewer numbers, so that what
stands around the drawing falls out. The slow path of the square root, which its arguments never take, is left out.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from collections import Counter
from itertools import product
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from weightloom.fabric import kernels_cuda as kernels

POINTERS = {"out32": "*fp32", "out16": "*i16", "h": "*fp32", "planes": "*fp32"}
BOX_MULLER_FMAS = 2  # whose products are exact: see the kernels
FORBIDDEN = r"\.ftz|\.approx|\.full|\bfma\.(?!rn\.f32)|\b(?:mul|add|sub)\.f32"  # a step without .rn may be fused later
CLASSES = {
    "float": r"F(ADD|MUL|FMA|SETP|SEL|MNMX)",
    "multiply": r"IMAD(\.WIDE|\.HI|\.X|\.IADD)?(?!\.MOV|\.SHL|\.U32$)",
    "integer": r"LOP3|IADD3|SHF|LEA|ISETP|SGXT|PRMT|VIADD|IABS",
    "convert": r"I2F|F2F",
    "root": r"MUFU",
}


def variants() -> list[tuple[Any, dict[str, Any]]]:
    """All that is ever compiled: kernels and their compile-time arguments."""
    batches = [{"B": b, "GROUPS": kernels.GROUPS_OF[b]} for b in kernels.BATCHES]
    few = [(kernels._weave_few, {"R": r} | batch) for r, batch in product(range(1, kernels.FEW + 1), batches)]
    many = [(kernels._weave_many, {"ALIGNED": aligned} | batch) for aligned, batch in product((True, False), batches)]
    kept = [(kernels._weave_kept, batch) for batch in batches]
    return [*few, *many, *kept, (kernels._draw, {"GROUPS": kernels.GROUPS_OF[1]})]


def compiled(kernel: Any, constants: dict[str, Any], capability: int) -> Any:
    """As a launch would compile it."""
    signature, places = dict[str, str](), {name: place for place, name in enumerate(kernel.arg_names)}
    for parameter in kernel.params:
        known = "constexpr" if parameter.name in constants else POINTERS.get(parameter.name)
        signature[parameter.name] = known or parameter.annotation_type or "i32"
    aligned = {(places[name],): [["tt.divisibility", 16]] for name in POINTERS if name in places}
    source = ASTSource(kernel, signature, {(places[name],): value for name, value in constants.items()}, aligned)
    return triton.compile(source, GPUTarget("cuda", capability, 32), {"enable_fp_fusion": False})


def check(capability: int) -> list[str]:
    """What is wrong with the PTX of any variant."""
    problems = []
    for kernel, constants in variants():
        ptx, name = compiled(kernel, constants, capability).asm["ptx"], f"{kernel.fn.__name__} {constants}"
        problems += [f"{name}: {found}" for found in sorted(set(re.findall(FORBIDDEN, ptx)))]
        fused = len(re.findall(r"\bfma\.rn\.f32", ptx)) + len(re.findall(r"\bfma\.rn\.f32x2", ptx))  # which is two
        roots = len(re.findall(r"\bsqrt\.rn\.f32", ptx))
        if fused != BOX_MULLER_FMAS * roots:
            problems.append(f"{name}: {fused} fused multiply-adds beside {roots} square roots")
    return problems


def instructions(kernel: Any, constants: dict[str, Any], capability: int) -> Counter[str]:
    """Instructions of the machine code, each as often as it stands there, without the slow path of the square root."""
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/nvdisasm"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled(kernel, constants, capability).asm["cubin"])
        file.flush()
        text = subprocess.run([tool, "-c", file.name], capture_output=True, text=True, check=True).stdout
    lines = re.findall(r"^\s+/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]+)", text, re.M)
    return Counter(_without_slow_roots(lines))


def _without_slow_roots(lines: list[str]) -> list[str]:
    """Less the moves that stand before each call of the slow path, and the jump behind it."""
    kept: list[str] = []
    for line in lines:
        if line.startswith("CALL"):
            while kept and re.match(r"MOV|IMAD\.MOV|BSSY", kept[-1]):
                kept.pop()
            continue
        kept.append(line)
    return kept


def per_normal(batch: int, capability: int) -> Counter[str]:
    """Instructions that a lane issues for each number that it draws and adds for each of ``batch`` w's."""
    groups = kernels.GROUPS_OF[batch]
    more, fewer = (instructions(kernels._weave_few, {"R": r, "B": batch, "GROUPS": groups}, capability) for r in (5, 2))
    normals = (5 - 2) * 4 * groups // 128  # of a lane; a program has four warps
    more.subtract(fewer)
    return Counter({name: count / normals for name, count in more.items() if count})


def table(capability: int) -> str:
    """Rows by w's, columns by class of instruction."""
    rows = [f"| w's | {' | '.join(CLASSES)} | other | all |", "|---" * (len(CLASSES) + 3) + "|"]
    for batch in kernels.BATCHES:
        counts = per_normal(batch, capability)
        classes = [sum(n for name, n in counts.items() if re.match(pattern, name)) for pattern in CLASSES.values()]
        every = sum(counts.values())
        cells = [*classes, every - sum(classes), every]
        rows.append(f"| {batch} | {' | '.join(f'{cell:.1f}' for cell in cells)} |")
    return "\n".join(rows)


def main() -> int:
    """The table, or the check: 1 where something is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--capability", type=int, default=90, help="80: A100; 90: H100 (the default); 100: B200")
    chosen = parser.parse_args()
    if not chosen.check:
        print(f"Instructions for each normal number, sm_{chosen.capability}, triton {triton.__version__}\n")
        print(table(chosen.capability))
        return 0
    problems = check(chosen.capability)
    print("\n".join(problems) or f"{len(variants())} variants: as the contract wants it")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
