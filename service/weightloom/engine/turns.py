"""Writes to the registry, one at a time: one that cannot be made holds up a thread, and not all of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from weightloom.errors import Unavailable

__all__ = ["Turns"]

P = ParamSpec("P")
R = TypeVar("R")
WAIT_SECONDS = 5.0


class Turns:
    """Runs blocking calls in a thread, each after the other. Use it from one event loop."""

    def __init__(self) -> None:
        self._free = asyncio.Lock()

    async def run(self, call: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """What ``call`` gives. Raises Unavailable where its turn does not come within WAIT_SECONDS."""
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                await self._free.acquire()
        except TimeoutError:
            message = "the registry is busy: writes that came before this one did not end in time; try again later"
            raise Unavailable(message) from None
        job = asyncio.ensure_future(asyncio.to_thread(call, *args, **kwargs))
        job.add_done_callback(lambda _: self._free.release())  # the thread goes on where this call is cancelled
        return await asyncio.shield(job)
