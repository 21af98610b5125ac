"""2,000 small variants as files: ``materialize`` with 1 and 2 processes and on Ray, against loops of single calls.

A variant is a 64 x 64 matrix of r = 16 and a bias of 64, F32, 17 KB; each has w's of its own. Every case is a program
that makes all of them in a fresh folder. Items per second count *over all*, from the start of Python to its end, and
*under way*: for a loop from its first item to its last; for ``materialize`` it is what 18,000 more items take, by the
time for a table of 20,000. The loops are what one would write without it: ``Client.fabricate_to`` a file that nobody
verifies or syncs, and ``Client.download``, which does both. Files go to memory where the system has a folder for that
(/dev/shm), or a disk that others use would be measured. Ray listens on all interfaces, so it runs in a network
namespace of its own; without one it is left out.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from common import Row, interleave, note, print_table, ratio, spread
from models import register
from servers import weightloom

__all__ = ["run"]

ITEMS, MANY, ROUNDS = 2000, 20000, 3
MEMORY = "/dev/shm"
SPEC = {
    "name": "variants",
    "seed": 1,
    "tensors": [
        {"name": "weight", "shape": [64, 64], "l": 64, "r": 16},
        {"name": "bias", "shape": [64], "kind": "identity"},
    ],
}
ALONE = ["unshare", "--net", "bash", "-c", 'ip link set lo up && exec "$@"', "alone"]
LOOP = """
import json, sys, time
from pathlib import Path
from weightloom_client import Client

table, target, spec, url, call = sys.argv[1:]
rows = [json.loads(line) for line in open(table)]
with Client(url) if url else Client.local() as client:
    if not url:
        client.create_model(json.loads(Path(spec).read_text()))
    for number, row in enumerate(rows):
        if call == "download":
            client.download(row["model"], row["w"], f"{target}/{row['file']}")
        else:
            with open(f"{target}/{row['file']}", "wb") as file:
                client.fabricate_to(file, row["model"], row["w"])
        if number == 0:
            began = time.perf_counter()
print((len(rows) - 1) / (time.perf_counter() - began))
"""
BATCH = """
import sys
from pathlib import Path
from weightloom.fabric import ModelSpec
from weightloom.materialize import Job, Models, materialize

def main():
    table, target, spec, processes, ray = sys.argv[1:]
    models = Models([ModelSpec.parse(Path(spec).read_bytes())])
    tally = materialize(Job(table, target, models, int(processes), ray or None))
    assert tally.made == tally.total, tally

if __name__ == "__main__":
    main()
"""


@dataclass
class Program:
    """A case: items per second over all; it keeps those under way."""

    folder: Path
    command: list[str]
    after: list[str]
    under_way: list[float] = field(default_factory=list)

    def __call__(self) -> float:
        seconds, said = self._run(ITEMS)
        self.under_way.append(float(said.split()[-1]) if "loop.py" in self.command[-1] else self._marginal(seconds))
        return ITEMS / seconds

    def _marginal(self, seconds: float) -> float:
        return (MANY - ITEMS) / (self._run(MANY)[0] - seconds)

    def _run(self, items: int) -> tuple[float, str]:
        """Seconds, and what it printed."""
        target = Path(tempfile.mkdtemp(dir=self.folder))
        files = [str(self.folder / f"{items}.jsonl"), str(target), str(self.folder / "spec.json")]
        began = time.perf_counter()
        done = subprocess.run([*self.command, *files, *self.after], check=True, capture_output=True, text=True)
        seconds = time.perf_counter() - began
        assert len(list(target.glob("*.safetensors"))) == items
        shutil.rmtree(target)
        return seconds, done.stdout


@contextmanager
def _folder() -> Iterator[Path]:
    """The table, the spec and the programs."""
    with tempfile.TemporaryDirectory(dir=MEMORY if Path(MEMORY).exists() else None) as name:
        folder, random = Path(name), np.random.default_rng(0)
        (folder / "spec.json").write_text(json.dumps(SPEC))
        (folder / "loop.py").write_text(LOOP)
        (folder / "batch.py").write_text(BATCH)
        rows = []
        for number in range(MANY):
            w = {name: random.standard_normal(64, np.float32).tolist() for name in ("weight", "bias")}
            rows.append(json.dumps({"file": f"{number}.safetensors", "model": SPEC["name"], "w": w}) + "\n")
        for count in (ITEMS, MANY):
            (folder / f"{count}.jsonl").write_text("".join(rows[:count]))
        yield folder


def _cases(folder: Path, url: str) -> dict[str, Program]:
    loop, batch = [sys.executable, str(folder / "loop.py")], [sys.executable, str(folder / "batch.py")]
    cases = {
        "loop, in process": Program(folder, loop, ["", "fabricate_to"]),
        "loop, in process, download": Program(folder, loop, ["", "download"]),
        "loop over REST": Program(folder, loop, [url, "fabricate_to"]),
        "1 process": Program(folder, batch, ["1", ""]),
        "2 processes": Program(folder, batch, ["2", ""]),
    }
    tried = subprocess.run([*ALONE, "true"], capture_output=True, check=False) if shutil.which("unshare") else None
    if tried and tried.returncode == 0:
        cases["2 actors on Ray"] = Program(folder, [*ALONE, *batch], ["2", "local"])
    return cases


def _rows(what: str, rates: dict[str, list[float]], under: Callable[[str], list[float]]) -> Iterator[Row]:
    plain, safe = "loop, in process", "loop, in process, download"
    for name in rates:
        if "loop" not in name:
            for other in (plain, safe):
                yield Row.at_least("materialize", f"{name} / {other}, {what}", ratio(under(name), under(other)))


def run() -> list[Row]:
    """Each way of ``materialize`` over both loops, over all and under way."""
    with _folder() as folder, weightloom() as server:
        register(server, SPEC)
        cases = _cases(folder, f"http://127.0.0.1:{server.port}")
        rates = interleave(cases, ROUNDS)
    under_way = {name: case.under_way[-ROUNDS:] for name, case in cases.items()}
    for name in cases:
        note(f"{name}: {spread(rates[name], 0)} items/s over all, {spread(under_way[name], 0)} under way")
    return [*_rows("over all", rates, rates.__getitem__), *_rows("under way", rates, under_way.__getitem__)]


if __name__ == "__main__":
    print_table(run())
