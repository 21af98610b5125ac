"""Runs the PTX that Triton makes for our kernels, on the processor: the compiled code's bits, without a GPU.

One program (CTA) at a time, all of its threads in step, as numpy arrays of one element for each thread. Instructions
that our kernels do not use are not there, and say so. Every float step is rounded as IEEE says, which is what ``.rn``
without ``.ftz`` asks of a GPU.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

THREADS = 128
TYPES = {"b16": "u2", "b32": "u4", "u32": "u4", "s32": "i4", "f32": "f4", "b64": "u8", "u64": "u8", "s64": "i8"}
TYPES |= {"pred": "b1", "f16": "u2", "f32x2": "u8"}
WIDE = {"u4": "u8", "i4": "i8"}
OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "add": operator.add, "sub": operator.sub, "and": operator.and_, "or": operator.or_, "xor": operator.xor,
    "eq": operator.eq, "ne": operator.ne, "lt": operator.lt, "le": operator.le, "gt": operator.gt, "ge": operator.ge,
}  # fmt: skip
ADDRESS_BITS = 40  # of the place in a tensor; the bits above say which


@dataclass(frozen=True)
class Instruction:
    guard: str  # "", "%p1" or "!%p1"
    op: list[str]
    operands: list[Any]  # texts, or lists of texts for vectors


def parse(text: str) -> tuple[list[Instruction], dict[str, int], list[str]]:
    """Instructions, where the labels stand, and the names of the parameters."""
    parameters = re.findall(r"\.param [^,)]*?(\w+_param_\d+)", text)
    body = re.sub(r"//[^\n]*|^\s*\.(loc|reg|shared|maxntid|reqntid)[^\n]*", "", text[text.index("{") + 1 :], flags=re.M)
    instructions: list[Instruction] = []
    labels: dict[str, int] = {}
    for part in body[: body.index("ret;") + 4].replace("\n", " ").split(";"):
        statement = part.strip()
        while label := re.match(r"([$\w]+):\s*", statement):
            labels[label[1]] = len(instructions)
            statement = statement[label.end() :]
        if found := re.match(r"(?:@(!?%p\d+)\s+)?([a-z][\w.]*)\s*(.*)$", statement):
            operands = re.findall(r"\{[^}]*\}|\[[^]]*\]|[^,\s]+", found[3])
            split = [[x.strip() for x in y[1:-1].split(",")] if y.startswith("{") else y for y in operands]
            instructions.append(Instruction(found[1] or "", found[2].split("."), split))
    return instructions, labels, parameters


class Machine:
    """One program of a launch; ``arguments`` are arrays (tensors) and numbers."""

    def __init__(self, text: str, arguments: Sequence[Any], shared_bytes: int) -> None:
        self.instructions, self.labels, names = parse(text)
        self.tensors = [argument for argument in arguments if isinstance(argument, np.ndarray)]
        places = iter(range(len(self.tensors)))
        self.parameters = {
            name: (next(places) + 1) << ADDRESS_BITS if isinstance(argument, np.ndarray) else argument
            for name, argument in zip(names, arguments, strict=False)
        }
        self.shared = np.zeros(shared_bytes // 4 + 4, np.uint32)

    def run(self, program: int, programs: int) -> None:
        self.registers: dict[str, Array] = {}
        self.special = {"%tid.x": np.arange(THREADS), "%ctaid.x": program, "%nctaid.x": programs, "global_smem": 0}
        at, steps = 0, 0
        while (instruction := self.instructions[at]).op[0] != "ret":
            target = self.step(instruction)
            at = at + 1 if target is None else self.labels[target]
            steps += 1
            assert steps < 1_000_000, "this never ends"

    def step(self, instruction: Instruction) -> str | None:
        """The label to go on at, where it is not the next instruction."""
        mask = np.ones(THREADS, bool)
        if instruction.guard:
            mask = self.registers[instruction.guard.removeprefix("!")] ^ instruction.guard.startswith("!")
        if instruction.op[0] == "bra":
            assert mask.all() or not mask.any(), "threads part"
            return str(instruction.operands[0]) if mask.all() else None
        if instruction.op[0] in {"ld", "st"}:
            self.transfer(instruction.op, instruction.operands, mask)
        elif instruction.op[0] != "bar":
            assert not instruction.guard, instruction
            self.compute(instruction.op, *instruction.operands)
        return None

    def value(self, token: Any, kind: str) -> Array:
        """An operand as an array of the type ``kind``."""
        if isinstance(token, list):  # the low half first
            low, high = (self.value(part, "u4" if kind == "u8" else "u2").astype(kind) for part in token)
            return low | high << np.array(8 * np.dtype(kind).itemsize // 2, kind)
        if token in self.registers:
            found = self.registers[token]
            return found if found.dtype == bool or found.itemsize != int(kind[1]) else found.view(kind)
        number = 0xABABABABABABABAB if token[:2] in {"%r", "%f"} else self.special.get(token)  # never set: rubbish
        if number is None:
            number = int(token[2:], 16) if token.startswith("0f") else int(token.removesuffix("U"), 0)
        bits = np.asarray(number & ((1 << 8 * int(kind[1])) - 1), f"u{kind[1]}")
        return np.broadcast_to(bits, THREADS).view(kind)

    def put(self, token: Any, result: Array) -> None:
        if isinstance(token, list):
            halves = np.ascontiguousarray(result).view("u4").reshape(THREADS, 2)
            for name, half in zip(token, halves.T, strict=True):
                self.registers[name] = half.copy()
        else:
            self.registers[token] = result if result.dtype == bool else result.view(f"u{result.itemsize}")

    def transfer(self, op: list[str], operands: list[Any], mask: Array) -> None:
        names = next((x for x in operands if isinstance(x, list)), None)
        address = next(x for x in operands if isinstance(x, str) and x.startswith("["))[1:-1].replace(" ", "")
        names = names or [x for x in operands if x[0] != "["]
        if op[1] == "param":
            self.put(names[0], np.full(THREADS, self.parameters[address], TYPES[op[-1]]))
            return
        words = {"b32": 1, "b64": 2}[op[-1]]
        base, _, offset = address.partition("+")
        first = self.value(base, "u8").astype("u8") + np.uint64(int(offset or 0))
        memory, index = self.place(op[1], first[mask])
        at = index[:, None] + np.arange(words)
        for i, name in enumerate(names):
            if op[0] == "st":
                value = np.ascontiguousarray(self.value(name, f"u{4 * words}"))
                memory[at + words * i] = value.view("u4").reshape(THREADS, words)[mask]
            else:
                result = self.registers.get(name, np.zeros(THREADS, f"u{4 * words}")).copy()
                result[mask] = np.ascontiguousarray(memory[at + words * i]).view(f"u{4 * words}")[:, 0]
                self.put(name, result)

    def place(self, space: str, addresses: Array) -> tuple[Array, Array]:
        """The memory, as words, and where in it."""
        if space == "shared" or not len(addresses):
            return self.shared, (addresses // 4).astype(np.int64)
        tensor = self.tensors[int(addresses[0] >> np.uint64(ADDRESS_BITS)) - 1]
        words = (addresses & np.uint64((1 << ADDRESS_BITS) - 1)) // np.uint64(4)
        return tensor.view(np.uint32).reshape(-1), words.astype(np.int64)

    def compute(self, op: list[str], target: Any, *sources: Any) -> None:
        if op[-1] == "f32x2":  # two at once; what holds for one lane of each holds for both
            pairs = [np.ascontiguousarray(self.value(source, "u8")).view("f4") for source in sources]
            self.put(target, np.ascontiguousarray(result(op, "f4", pairs)).view("u8"))
        elif op[0] == "cvt":
            self.put(target, converted(op, [self.value(source, TYPES[op[-1]]) for source in sources]))
        else:
            kind = TYPES[op[-1]]
            kinds = [kind] * len(sources)
            if op[0] in {"shl", "shr", "bfe"}:
                kinds[1:] = ["u4"] * (len(sources) - 1)
            if op[0] == "mad" and op[1] == "wide":
                kinds[2] = WIDE[kind]
            self.put(target, result(op, kind, [self.value(*pair) for pair in zip(sources, kinds, strict=True)]))


def result(op: list[str], kind: str, values: list[Array]) -> Array:
    """What an instruction makes of its operands."""
    with np.errstate(over="ignore", under="ignore"):
        if op[0] == "setp":
            return np.asarray(OPERATORS[op[1]](values[0], values[1]))
        if op[0] in OPERATORS:
            return np.asarray(OPERATORS[op[0]](values[0], values[1]))
        return np.asarray(OTHERS[op[0]](op, kind, *values))


def _mul(op: list[str], kind: str, a: Array, b: Array, c: Any = None) -> Array:
    """mul and mad, of which .hi and .wide look at all bits of the product."""
    to = WIDE[kind] if op[1] in {"wide", "hi"} else kind
    product = a.astype(to) * b.astype(to)
    if op[1] == "hi":
        product = (product >> np.array(8 * np.dtype(kind).itemsize, to)).astype(kind)
    return product if c is None else product + c


def _fma(op: list[str], kind: str, a: Array, b: Array, c: Array) -> Array:
    product = a * b
    assert (product == a.astype("f8") * b.astype("f8")).all(), "this product is not exact"
    return product + c


def _bfe(op: list[str], kind: str, a: Array, by: Array, size: Array) -> Array:
    up = 32 - int(size[0]) - int(by[0])
    return a << np.array(up, kind) >> np.array(32 - int(size[0]), kind)


def _shf(op: list[str], kind: str, a: Array, b: Array, by: Array) -> Array:
    by = by & np.uint32(31)
    return (b.astype("u8") << by | a.astype("u8") >> (np.uint64(32) - by)).astype("u4")


def _prmt(op: list[str], kind: str, a: Array, b: Array, selector: Array) -> Array:
    bytes_of = np.stack([a, b], axis=-1).view("u1")
    picks = [int(selector[0]) >> 4 * i & 7 for i in range(4)]
    return np.ascontiguousarray(bytes_of[:, picks]).view("u4")[:, 0]


OTHERS: dict[str, Callable[..., Any]] = {
    "mov": lambda op, kind, a: a.copy(),
    "mul": _mul,
    "mad": _mul,
    "fma": _fma,
    "sqrt": lambda op, kind, a: np.sqrt(a),
    "abs": lambda op, kind, a: np.abs(a),
    "neg": lambda op, kind, a: np.zeros_like(a) - a,
    "shl": lambda op, kind, a, by: a << by.astype(kind),
    "shr": lambda op, kind, a, by: a >> by.astype(kind),
    "bfe": _bfe,
    "shf": _shf,
    "prmt": _prmt,
}


def converted(op: list[str], sources: list[Array]) -> Array:
    """cvt, to nearest even where that is a question."""
    with np.errstate(over="ignore"):
        if op[-2] == "f16x2":  # the first operand is the upper half
            high, low = (x.astype("f2").view("u2").astype("u4") for x in sources)
            return high << np.uint32(16) | low
        if op[-2] == "f16":
            return sources[0].astype("f2").view("u2")
        return sources[0].astype(TYPES[op[-2]])
