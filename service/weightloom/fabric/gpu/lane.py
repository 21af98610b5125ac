"""A lane: two CUDA streams with memory of their own, in which the parts of a pass take turns.

So the copy of one part to the host goes beside the making of the next one. A lane serves one pass at a time; as many
worker threads as there are use lanes of their own, so that one launches while another waits.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

__all__ = ["STAGE_BYTES", "Lane"]

STAGE_BYTES = 16 << 20  # of each of the two streams: a part is copied row by row, so it should be large


class Lane:
    """On ``device``; "cpu" where Triton interprets, which has no streams."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._streams: list[Any] = [torch.cuda.Stream(device) if device.type == "cuda" else None for _ in range(2)]
        # Made once: to make events from several threads takes long.
        self._first_done: Any = torch.cuda.Event() if device.type == "cuda" else None
        self._ended: list[Any] = [torch.cuda.Event(blocking=True) for stream in self._streams if stream is not None]
        self._stages = []
        for stream in self._streams:
            with _on(stream):
                self._stages.append(torch.empty(STAGE_BYTES, dtype=torch.uint8, device=device))
        self._next = 0
        self._held: list[Any] = []

    def upload(self, values: npt.NDArray[np.float32]) -> Any:
        """``values`` on the device; both are held until ``finish``: CUDA need not have read them before that."""
        source = torch.from_numpy(values)
        tensor = source.to(self._device, non_blocking=True)
        self._held += source, tensor
        return tensor

    @contextmanager
    def first(self) -> Iterator[None]:
        """What all parts need is done in here, before ``follow``."""
        with _on(self._streams[0]):
            yield

    def follow(self) -> None:
        """Have the second stream wait for the first."""
        if self._first_done is not None:
            self._first_done.record(self._streams[0])
            self._streams[1].wait_event(self._first_done)

    @contextmanager
    def turn(self) -> Iterator[Any]:
        """The next part's stream and memory: uint8 (STAGE_BYTES,)."""
        self._next ^= 1
        with _on(self._streams[self._next]):
            yield self._stages[self._next]

    def finish(self) -> None:
        """Wait until all is done, without keeping a core busy. Raises torch's errors of the work."""
        for stream, ended in zip(self._streams, self._ended, strict=False):
            ended.record(stream)
        for ended in self._ended:
            ended.synchronize()
        self._held.clear()


def _on(stream: Any) -> Any:
    return nullcontext() if stream is None else torch.cuda.stream(stream)
