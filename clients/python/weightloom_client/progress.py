"""Progress bars, on a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["Progress", "progress_bar"]

Progress = Callable[[int, int], None]  # bytes done, bytes in all


@contextmanager
def progress_bar(label: str) -> Iterator[Progress]:
    """A bar on stderr where that is a terminal; silent elsewhere."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    text, bar = TextColumn("{task.description}"), BarColumn()
    columns = (text, bar, DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    target = Console(stderr=True)
    with Progress(*columns, console=target, disable=not target.is_terminal, transient=True) as progress:
        task = progress.add_task(label, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)
