"""How far a run is, and what of it failed."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from weightloom.materialize.batches import Outcome

__all__ = ["Failures", "Tally"]


@dataclass
class Tally:
    """Items by what became of them; ``bytes`` of those that were made. total: rows, where that is known.

    refused_in_a_row: items that the target did not take, since the last one that it took.
    """

    total: int | None = None
    made: int = 0
    kept: int = 0
    failed: int = 0
    bytes: int = 0
    refused_in_a_row: int = 0
    stopped: bool = False
    began: float = field(default_factory=time.monotonic)

    @property
    def done(self) -> int:
        """Rows that have their outcome."""
        return self.made + self.kept + self.failed

    @property
    def seconds(self) -> float:
        """Since the run began."""
        return time.monotonic() - self.began

    def add(self, outcomes: Iterable[Outcome]) -> None:
        """Count them."""
        for outcome in outcomes:
            self.made += outcome.state == "made"
            self.kept += outcome.state == "kept"
            self.failed += outcome.state == "failed"
            self.refused_in_a_row = self.refused_in_a_row + 1 if outcome.code == "target_unavailable" else 0
            self.bytes += outcome.size if outcome.state == "made" else 0


class Failures:
    """A file of JSON lines, row, file, code and detail of each item that failed; none where none did."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.unlink(missing_ok=True)
        self._opened: TextIO | None = None

    def add(self, outcomes: Iterable[Outcome]) -> None:
        """Write those that failed, so that they can be read at once."""
        for outcome in outcomes:
            if outcome.state == "failed":
                if self._opened is None:
                    self._opened = self.path.open("w", encoding="utf-8")
                line = {key: getattr(outcome, key) for key in ("row", "file", "code", "detail")}
                self._opened.write(json.dumps(line, ensure_ascii=False) + "\n")
        if self._opened is not None:
            self._opened.flush()

    def close(self) -> None:
        """Close the file."""
        if self._opened is not None:
            self._opened.close()
