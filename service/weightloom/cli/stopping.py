"""Ending a command by a signal so that nothing half done stays behind."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Coroutine
from contextlib import suppress

__all__ = ["until_stopped"]


async def until_stopped(work: Coroutine[None, None, None]) -> None:
    """Do ``work``; SIGINT and SIGTERM end it, and the program with exit code 128 + their number.

    (An exception from a signal handler can come in a destructor, where it is lost; the loop's own handlers are safe.)
    """
    loop, task, numbers = asyncio.get_running_loop(), asyncio.ensure_future(work), list[int]()

    def stop(number: int) -> None:
        numbers.append(number)
        task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM):
        with suppress(NotImplementedError):  # Windows
            loop.add_signal_handler(number, stop, number)
    try:
        await task
    except asyncio.CancelledError:
        if numbers:
            sys.exit(128 + numbers[0])
        raise
