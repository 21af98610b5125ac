"""All checks and timings of the GPU in one call: ``python benchmarks/gpu.py [--quick] [--out FILE] [--parts ...]``.

First the bits (gpu_checks.py), then the kernels against floors and against torch (gpu_floors.py, gpu_kernels.py), the
device under the engine (gpu_device.py), and whole servers (gpu_rest.py). It prints one table in markdown. The exit
status is 0, also where a goal is missed; 1 where bits are wrong or a part broke; 2 where there is no GPU, or not even
what the fabric needs. A server's packages may be missing: its part then says so.

``--quick`` does a little of everything. With TRITON_INTERPRET=1 Triton plays a GPU on the processor, which shows that
this script works; its times then mean nothing.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SOURCES = [str(ROOT / part) for part in ("service", "clients/python", "proto", "tests")]
NEEDED = ("numpy", "pydantic", "rfc8785")
PARTS = ("checks", "kernels", "device", "rest")


def main(arguments: list[str]) -> int:
    """The exit status."""
    options = _options(arguments)
    sys.path[:0] = SOURCES
    os.environ["PYTHONPATH"] = os.pathsep.join([*SOURCES[:3], *filter(None, [os.environ.get("PYTHONPATH")])])
    if problem := _no_gpu():
        print(problem)
        return 2
    run = Run(options.quick or os.environ.get("TRITON_INTERPRET") == "1", options.out)
    for part in options.parts:
        if not run.part(part):
            break
    run.show()
    return run.status


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Check and measure the GPU.")
    parser.add_argument("--quick", action="store_true", help="a little of everything; always so under TRITON_INTERPRET")
    parser.add_argument("--out", type=Path, help="a file for the table")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="all, if not given")
    return parser.parse_args(arguments)


def _no_gpu() -> str:
    """Why nothing can be measured, in one line; empty where it can."""
    if missing := [package for package in NEEDED if find_spec(package) is None]:
        return f"no benchmark of the GPU: {' and '.join(missing)} not installed"
    from weightloom.errors import Unavailable
    from weightloom.fabric.gpu.finding import find_gpus

    try:
        find_gpus("cuda:0")
    except Unavailable as error:
        return f"no GPU, no benchmark of it: {error}"
    return ""


class Run:
    """The lines so far; ``out`` is written anew after each part."""

    def __init__(self, is_quick: bool, out: Path | None) -> None:
        from gpu_clock import Plan
        from gpu_table import Line

        self.status, self._plan, self._out = 0, Plan.quick() if is_quick else Plan(), out
        self._lines: list[Line] = []
        self._machine: Any = None
        self._rates: dict[int, float] = {}

    def part(self, name: str) -> bool:
        """Run one of ``PARTS``; False where nothing after it would mean anything, since bits are wrong (or may be)."""
        from gpu_checks import CheckFailed
        from gpu_table import Line

        print(f"\n{name}", flush=True)
        began = time.perf_counter()
        try:
            lines = getattr(self, f"_{name}")()
        except Exception as error:
            traceback.print_exc()
            self.status = 1
            self._lines.append(Line(name, "FAILED", f"{type(error).__name__}: {error}".replace("\n", " ")))
            return name != "checks" and not isinstance(error, CheckFailed)
        self._lines += lines
        print(f"  {name} took {time.perf_counter() - began:.0f} s", flush=True)
        if self._out:
            self._out.write_text(self.table)
        return True

    def _checks(self) -> list[Any]:
        import gpu_checks

        return gpu_checks.run(self._plan)

    def _measured(self, run: Callable[..., list[Any]]) -> list[Any]:
        """The lines of a part that needs the machine's figures, which are measured once and stand before them."""
        from gpu_floors import measure_machine

        if self._machine is None:
            self._machine = measure_machine(self._plan)
            self._lines += self._machine.lines
        return run(self._plan, self._machine)

    def _kernels(self) -> list[Any]:
        import gpu_kernels

        return self._measured(gpu_kernels.run)

    def _device(self) -> list[Any]:
        import gpu_device

        lines = self._measured(gpu_device.run)
        self._rates = gpu_device.best_rates(lines, self._plan)
        return lines

    def _rest(self) -> list[Any]:
        import gpu_rest

        return gpu_rest.run(self._plan, self._rates)

    def show(self) -> None:
        """Print the table, and write it."""
        print(f"\n{self.table}", flush=True)
        if self._out:
            self._out.write_text(self.table)

    @property
    def table(self) -> str:
        """All lines so far, under the machine and its software."""
        from gpu_floors import identify
        from gpu_table import markdown

        name, driver = identify()
        software = ", ".join(f"{package} {version(package)}" for package in ("torch", "triton", "numpy"))
        date = datetime.now(UTC).date()
        cores = f"{os.cpu_count()} cores, Python {platform.python_version()}"
        return markdown(f"{name}, {date}; driver {driver}, {software}; {cores}", self._lines)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
