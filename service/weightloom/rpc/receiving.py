"""Places for messages that are on their way, before whose end nobody knows how large they are."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from weakref import WeakValueDictionary

from weightloom.errors import Overloaded

__all__ = ["Receiving"]


class Receiving:
    """``places`` for everybody, and half of them at most for one caller: who sends nothing keeps no one else waiting.

    patience: for how many seconds one waits for a place.
    """

    def __init__(self, places: int, patience: float) -> None:
        self._all, self._most, self._patience = asyncio.Semaphore(places), max(1, places // 2), patience
        self._own = WeakValueDictionary[str, asyncio.Semaphore]()  # of those that have a place or wait for one

    @asynccontextmanager
    async def place(self, caller: str) -> AsyncIterator[None]:
        """Have a place. caller: whatever tells one from the other. Raises Overloaded where the wait was too long."""
        own = self._own.setdefault(caller, asyncio.Semaphore(self._most))
        async with AsyncExitStack() as held:
            try:
                async with asyncio.timeout(self._patience):
                    await held.enter_async_context(own)
                    await held.enter_async_context(self._all)
            except TimeoutError:
                message = "others' requests are on their way, and no room for one more came free in"
                limit = f"{self._patience:g} s (settings max_queue_seconds and max_bytes_in_flight)"
                raise Overloaded(f"{message} {limit}", retry_after=1) from None
            yield
