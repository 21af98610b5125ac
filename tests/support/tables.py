"""Tables of variants, and makers that die: for tests of ``materialize``."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from weightloom.errors import Unavailable
from weightloom.fabric import ModelSpec
from weightloom.materialize.batches import Batch, Outcome
from weightloom.materialize.maker import Maker, MakerOptions

SPEC = {
    "name": "demo",
    "seed": 5,
    "tensors": [{"name": "a", "shape": [24, 16], "l": 4, "r": 3}, {"name": "b", "shape": [8], "kind": "identity"}],
}
MODEL = ModelSpec.model_validate(SPEC)


def w_of(number: int) -> dict[str, list[float]]:
    """Another one for each number; float32's, so that any way of writing them down gives the same bits."""
    random = np.random.default_rng(number)
    return {"a": random.standard_normal(4, np.float32).tolist(), "b": random.standard_normal(8, np.float32).tolist()}


def row(number: int, **fields: Any) -> dict[str, Any]:
    """A row for ``SPEC``."""
    return {"file": f"v/{number}.safetensors", "model": "demo", "w": w_of(number)} | fields


def write_lines(path: Path, rows: Iterable[dict[str, Any] | str]) -> Path:
    """A table of JSON lines; texts are written as they are."""
    path.write_text("".join(f"{one if isinstance(one, str) else json.dumps(one)}\n" for one in rows))
    return path


class DeadlyMaker(Maker):
    """Its process is killed by each item called ``…deadly…``, and once by one called ``…once…``."""

    def make(self, batch: Batch) -> list[Outcome]:
        """See ``Maker.make``."""
        for item in batch.items:
            died = Path(self._options.target) / f"died-{item.row}"
            if "deadly" in item.file or ("once" in item.file and not died.exists()):
                died.touch()
                os.kill(os.getpid(), signal.SIGKILL)
        return super().make(batch)


class BrokenMaker(Maker):
    """Its arithmetic is wrong."""

    def __init__(self, options: MakerOptions) -> None:
        raise Unavailable("no arithmetic", code="wrong_bits")


class LateMaker(Maker):
    """The first process to try dies as it begins."""

    def __init__(self, options: MakerOptions) -> None:
        try:
            Path(options.target, "begun").touch(exist_ok=False)
        except FileExistsError:
            super().__init__(options)
        else:
            os.kill(os.getpid(), signal.SIGKILL)


class DyingMaker(Maker):
    """Its process dies as it begins."""

    def __init__(self, options: MakerOptions) -> None:
        os.kill(os.getpid(), signal.SIGKILL)
