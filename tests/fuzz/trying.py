"""Examples for checks that talk to a server: as many as a test says, and then on for FUZZ_SECONDS (``make fuzz``)."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TypeVar

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

__all__ = ["tried"]

SECONDS = float(os.environ.get("FUZZ_SECONDS", "0"))

T = TypeVar("T")


def tried(strategy: st.SearchStrategy[T], examples: int) -> Callable[[Callable[[T], None]], Callable[[], None]]:
    """Makes a check of one example one that tries many; those of the first round are the same each time in CI."""

    def decorate(check: Callable[[T], None]) -> Callable[[], None]:
        ways = settings(max_examples=examples, suppress_health_check=list(HealthCheck))
        first = ways(given(strategy)(check))
        more = settings(ways, derandomize=False, database=None)(given(strategy)(check))

        def run() -> None:
            until = time.monotonic() + SECONDS
            first()
            while time.monotonic() < until:
                more()

        return run

    return decorate
