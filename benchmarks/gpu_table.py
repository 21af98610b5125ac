"""The table of ``gpu.py``: one line for each thing checked or measured, in markdown."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["Line", "markdown"]

COLUMNS = ("part", "what", "floor, ms", "measured, ms", "GB/s", "torch's time over it", "of the floor", "remark")


@dataclass(frozen=True)
class Line:
    """floor and ms: by count and by clock. rate: GB/s of W, or of what is copied. ratio: torch's time over ours."""

    part: str
    what: str
    remark: str = ""
    floor: float | None = None
    ms: float | None = None
    rate: float | None = None
    ratio: float | None = None

    @classmethod
    def goal(cls, what: str, value: float, is_met: bool, wanted: str) -> Line:
        """A goal, and whether it is met."""
        return cls("goals", what, f"{value:.3g}, goal {wanted}: {'met' if is_met else 'not met'}")

    @property
    def cells(self) -> tuple[str, ...]:
        """As in ``COLUMNS``."""
        share = "" if not self.floor or not self.ms else f"{self.floor / self.ms:.0%}"
        ratio = "" if self.ratio is None else f"{self.ratio:.2f} ×"
        numbers = map(_digits, (self.floor, self.ms, self.rate))
        return self.part, self.what, *numbers, ratio, share, self.remark


def markdown(heading: str, lines: Iterable[Line]) -> str:
    """All of it, ready to be pasted."""
    rows = [COLUMNS, ("---",) * len(COLUMNS), *(line.cells for line in lines)]
    return "\n".join([heading, "", *("| " + " | ".join(row) + " |" for row in rows), ""])


def _digits(value: float | None) -> str:
    """Four digits."""
    if value is None:
        return ""
    return f"{value:.0f}" if value >= 1000 else f"{value:.4g}"
