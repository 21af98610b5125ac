"""From ready to draining to closed: how a server stops without cutting a stream.

ready      takes streams
draining   says that it is not ready, so that balancers turn away; takes streams for a moment longer
closed     takes no new streams; those that run go on
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from enum import StrEnum

from weightloom.engine.admission import Admission, draining

__all__ = ["Lifecycle", "State"]


class State(StrEnum):
    """Where in its life a server is."""

    READY = "ready"
    DRAINING = "draining"
    CLOSED = "closed"


class Lifecycle:
    """Closes the gate and waits for the streams behind it. All but ``check_ready`` belongs to the loop's thread."""

    def __init__(self, admission: Admission) -> None:
        self.state = State.READY
        self._admission = admission

    @property
    def running(self) -> int:
        """Streams that have not ended."""
        return self._admission.running

    def check_ready(self) -> None:
        """Raise Unavailable as soon as the server is about to stop."""
        if self.state is not State.READY:
            raise draining()

    def check_accepting(self) -> None:
        """Raise Unavailable where nothing new is begun any more."""
        if self.state is State.CLOSED:
            raise draining()

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
                    self._close()
                    await self._admission.drained()
        finally:
            self._close()
        return max(0.0, until - loop.time())

    def _close(self) -> None:
        self.state = State.CLOSED
        self._admission.close()
