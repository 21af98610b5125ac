"""What uvicorn takes for its transport: the event loop's, with one method that is ours."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

__all__ = ["DirectTransport", "LingeringTransport"]

DIRECT_BYTES = 1 << 16  # below it the write is too short for the detour


class DirectTransport:
    """Everything is the inner transport's, but for ``write``.

    uvloop calls write(2) with the GIL held. For a tile of 1 MiB that is some 250 microseconds in which no worker can
    take its next tile; releasing it is worth a tenth of a bulk stream on two cores (docs/performance.md). uvloop still
    does all the waiting: what the socket does not take at once goes to its own buffer, and while anything is in there,
    everything goes behind it.
    """

    def __init__(self, inner: Any) -> None:
        self._inner, self._descriptor = inner, inner.get_extra_info("socket").fileno()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def write(self, data: bytes | memoryview) -> None:
        """At once, as much as the socket takes of a large one."""
        if len(data) < DIRECT_BYTES or self._inner.get_write_buffer_size() or self._inner.is_closing():
            self._inner.write(data)
            return
        try:
            sent = os.write(self._descriptor, data)
        except OSError:  # full, or broken: the inner transport finds out which and acts on it
            sent = 0
        if sent < len(data):
            self._inner.write(memoryview(data)[sent:])


class LingeringTransport:
    """Everything is the inner transport's, but for ``close``, which uvicorn calls behind the last reply."""

    def __init__(self, inner: Any, close: Callable[[], None]) -> None:
        self._inner, self.close = inner, close

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)
