"""How far a run of ``materialize`` is: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from weightloom.cli.output import console
from weightloom.materialize import Tally

__all__ = ["shown_progress"]

LINE_SECONDS = 10.0
Watch = Callable[[Tally], None]


@contextmanager
def shown_progress() -> Iterator[Watch]:
    """What shows a tally, on stderr."""
    target = Console(stderr=True)
    if not target.is_terminal:
        yield _lines(console(stderr=True))
        return
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[text]}"), TimeRemainingColumn())
    with Progress(*columns, console=target, transient=True) as bar:
        task = bar.add_task("", total=None, text="")
        yield lambda tally: bar.update(task, completed=tally.done, total=tally.total, text=_text(tally))


def _lines(out: Console) -> Watch:
    last = time.monotonic()

    def watch(tally: Tally) -> None:
        nonlocal last
        if time.monotonic() - last >= LINE_SECONDS:
            last = time.monotonic()
            of = "" if tally.total is None else f" of {tally.total:,}"
            out.print(f"{tally.done:,}{of}: {_text(tally)}{_left(tally)}")

    return watch


def _text(tally: Tally) -> str:
    seconds = max(tally.seconds, 1e-9)
    failed = f", {tally.failed:,} failed" if tally.failed else ""
    return f"{tally.done / seconds:,.0f} items/s, {tally.bytes / seconds / 1e6:,.0f} MB/s{failed}"


def _left(tally: Tally) -> str:
    if not tally.total or not tally.done:
        return ""
    return f", {tally.seconds * (tally.total - tally.done) / tally.done:,.0f} s left"
