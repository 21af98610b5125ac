"""A file as it is fetched: its header first, then its data, into arrays, tensor by tensor, or wherever bytes go."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from copy import copy
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np
import numpy.typing as npt

from weightloom_client.errors import WrongBits
from weightloom_client.memory import Bytes, Memory, array_of
from weightloom_client.progress import Progress
from weightloom_client.protocol import Transfer, Wanted
from weightloom_client.replicas import Replicas
from weightloom_client.stream import Stream
from weightloom_client.stripes import STRIPE, Stripes

if TYPE_CHECKING:
    from weightloom.fabric.safetensors import Entry

__all__ = ["Fetch", "Verify"]


class Verify(Protocol):
    """Says whether what a fetch has received is right."""

    def prepare(self, fetch: Fetch) -> None:
        """Look at the header, and get ready while the model is there. Raises WrongBits."""

    def __call__(self, fetch: Fetch, received: Callable[[int, int], Bytes]) -> None:
        """Compare bytes of the fetch's entries; ``received(offset, length)`` gives them. Raises WrongBits."""


class Fetch:
    """The file ``wanted``. After ``open``: ``header``, ``metadata``, ``entries`` in the file's order, ``total`` bytes.

    progress: called with bytes done and in all. Close it, or use it in a ``with``. Methods raise ServerError,
    ServerUnreachable, WrongBits.
    """

    header: bytes
    metadata: dict[str, str]
    entries: list[Entry]

    def __init__(
        self, replicas: Replicas, wanted: Wanted, progress: Progress | None, transfer: Transfer | None = None
    ) -> None:
        self.replicas, self.wanted, self.transfer = replicas, wanted, transfer or Transfer()
        self._progress, self._done, self._lock = progress, self.transfer.position, threading.Lock()
        self.resumed_at = self.transfer.position  # bytes before it came in an earlier program
        self.stream = Stream(replicas, wanted, self.transfer, self._received)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.stream.close()

    @property
    def total(self) -> int:
        """Bytes of the whole file."""
        return self.transfer.total

    @property
    def is_striped(self) -> bool:
        """Whether what is missing is to come over several streams at once."""
        return self.replicas.streams > 1 and self.total - self.transfer.position > STRIPE

    def open(self) -> Self:
        """Receive the header."""
        self.stream.open()
        length = self._read(8)
        size = int.from_bytes(length, "little")
        if size > self.total - 8:
            raise WrongBits(f"the file's header would have {size} bytes, in a file of {self.total}")
        self.read_header(length + self._read(size))
        return self

    def read_header(self, header: bytes) -> None:
        """Take the header from bytes that are there already."""
        from weightloom.errors import MalformedBody
        from weightloom.fabric import safetensors

        try:
            entries, self.metadata = safetensors.layout(header, self.total)
        except MalformedBody as error:
            raise WrongBits(f"what came is no safetensors file: {error}") from error
        self.header, self.entries = header, sorted(entries.values(), key=lambda entry: entry.begin)

    def arrays(self, verify: Verify, out: Mapping[str, npt.NDArray[Any]] | None = None) -> dict[str, npt.NDArray[Any]]:
        """All tensors: in ``out``, or as views of one new block of memory. They are received into it."""
        verify.prepare(self)
        if out is None:
            memory = Memory([(len(self.header), np.empty(self.total - len(self.header), np.uint8))])
        else:
            memory = Memory.of(self.entries, out)
        self.data(memory.put)
        verify(self, memory.bytes_at)
        if out is not None:
            return dict(out)
        return {e.name: array_of(e, memory.bytes_at(e.begin, e.end - e.begin)) for e in self.entries}

    def data(self, put: Callable[[int, Callable[[memoryview], None], int], None]) -> None:
        """Everything behind the transfer's position: see ``Stripes.receive`` for ``put``."""
        start = self.transfer.position
        if self.is_striped:
            stripes = Stripes(start, self.total)
            stripes.receive(self.stream, self.replicas, self.wanted, self.transfer, put, self._received)
        else:
            put(start, self.stream.read_into, self.total - start)

    def tensors(self, verify: Verify) -> Iterator[tuple[str, npt.NDArray[Any]]]:
        """Tensor after tensor, each in memory of its own."""
        verify.prepare(self)
        for entry in self.entries:
            data = np.empty(entry.end - entry.begin, np.uint8)
            self.stream.read_into(data.data)
            self._verify_entry(entry, data, verify)
            yield entry.name, array_of(entry, data)

    def _verify_entry(self, entry: Entry, data: Bytes, verify: Verify) -> None:
        part = copy(self)
        part.entries = [entry]
        verify(part, lambda offset, length: data[offset - entry.begin : offset - entry.begin + length])

    def _read(self, count: int) -> bytes:
        data = bytearray(count)
        self.stream.read_into(memoryview(data))
        return bytes(data)

    def _received(self, count: int) -> None:
        with self._lock:
            self._done = min(self._done + count, self.total)  # what is taken over from a slow replica comes twice
            if self._progress is not None:
                self._progress(self._done, self.total)
