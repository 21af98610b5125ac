"""What happened in a soak: who came, what each request ended in, and what should not have been."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Final

__all__ = ["CUT", "GAVE_UP", "LEFT", "OK", "Ledger"]

OK: Final = "ok"  # whole, and of the right bytes
CUT: Final = "cut"  # the server ended it before it was whole
LEFT: Final = "left"  # the client went away
GAVE_UP: Final = "gave up"  # at the client's own deadline, whatever the server had done by then
MAX_SHOWN = 20


@dataclass
class Ledger:
    """endings: by behaviour and OK, CUT, LEFT, GAVE_UP or an error's code. made: completions by feature.

    seen: what the client saw of each request, by its id. failures: what must not be, as sentences.
    """

    endings: Counter[tuple[str, str]] = field(default_factory=Counter)
    made: Counter[tuple[str, str]] = field(default_factory=Counter)
    seen: dict[str, str] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    def ended(self, behaviour: str, request_id: str, ending: str) -> None:
        """Note how a request ended; it has no id where the server keeps no account of it."""
        self.endings[behaviour, ending] += 1
        if request_id:
            self.seen[request_id] = ending

    def fail(self, sentence: str) -> None:
        """Note what must not be."""
        self.failures.append(sentence)

    def summary(self) -> str:
        """All of it, for people."""
        lines = [f"  {count:6} x {behaviour}: {ending}" for (behaviour, ending), count in sorted(self.endings.items())]
        lines += [f"  made {count:6} x {name}={value}" for (name, value), count in sorted(self.made.items())]
        shown = [f"  FAILED: {sentence}" for sentence in self.failures[:MAX_SHOWN]]
        count = sum(self.endings.values())
        return "\n".join([f"{count} requests, {len(self.failures)} failures", *lines, *shown])
