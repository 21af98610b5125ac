"""From ready to draining to closed: how a server stops without cutting a stream.

ready      takes streams
draining   says that it is not ready, so that balancers turn away; takes streams for a moment longer
closed     takes no new streams; those that run go on
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from enum import StrEnum

from weightloom.errors import Unavailable

__all__ = ["Lifecycle", "State"]


class State(StrEnum):
    """Where in its life a server is."""

    READY = "ready"
    DRAINING = "draining"
    CLOSED = "closed"


class Lifecycle:
    """Counts running streams and waits for their end. All but ``check_ready`` belongs to the event loop's thread."""

    def __init__(self) -> None:
        self.state = State.READY
        self.running = 0
        self._idle = asyncio.Event()
        self._idle.set()

    def check_ready(self) -> None:
        """Raise Unavailable as soon as the server is about to stop."""
        if self.state is not State.READY:
            raise Unavailable("the server is stopping; ask another replica", code="draining")

    def check_accepting(self) -> None:
        """Raise Unavailable where no new stream is taken any more."""
        if self.state is State.CLOSED:
            self.check_ready()

    @contextmanager
    def stream(self) -> Iterator[None]:
        """Count a stream for as long as this context is open. Raises Unavailable where none is taken any more."""
        self.check_accepting()
        self.running += 1
        self._idle.clear()
        try:
            yield
        finally:
            self.running -= 1
            if not self.running:
                self._idle.set()

    async def drain(self, moment: float, grace: float) -> float:
        """Be not ready at once, closed after ``moment`` seconds, and wait until no stream runs, ``grace`` in all.

        The seconds of ``grace`` that are left.
        """
        self.state = State.DRAINING
        loop = asyncio.get_running_loop()
        until = loop.time() + grace
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout_at(until):
                    await asyncio.sleep(moment)
                    self.state = State.CLOSED
                    await self._idle.wait()
        finally:
            self.state = State.CLOSED
        return max(0.0, until - loop.time())
