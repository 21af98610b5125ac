"""A transfer: which bytes of a file have come, which are to be asked for next, and whether they belong together."""

from __future__ import annotations

from dataclasses import dataclass

from weightloom_client.errors import WrongBits

__all__ = ["Broken", "Head", "Part", "Transfer"]


class Broken(Exception):
    """A try came to nothing: no connection, cut, stalled, or cut short. Another try may go better.

    is_sent: whether the server may have heard of it.
    """

    def __init__(self, message: str = "", *, is_sent: bool = True) -> None:
        super().__init__(message)
        self.is_sent = is_sent


@dataclass(frozen=True)
class Part:
    """Bytes ``offset`` … of the file that ``etag`` names ("" while it is not known): ``length``, or all the rest.

    stream: which of the streams that share the file asks, from 0 on: balancers may send each to another replica.
    """

    offset: int = 0
    length: int | None = None
    etag: str = ""
    stream: int = 0


@dataclass(frozen=True)
class Head:
    """What a reply says of itself: the file's ETag and size, and the bytes that it brings."""

    etag: str
    total: int
    offset: int
    length: int


class Transfer:
    """The bytes ``start`` … ``stop - 1`` of a file (None: to its end), which come in order, over one reply or many.

    stream: see ``Part``.
    """

    def __init__(self, start: int = 0, stop: int | None = None, etag: str = "", stream: int = 0) -> None:
        self.position, self.stop, self.etag, self.total, self.stream = start, stop, etag, -1, stream

    @property
    def is_whole(self) -> bool:
        """Whether all bytes have come."""
        return self.total >= 0 and self.position == self.stop

    def next_part(self) -> Part:
        """What to ask for now."""
        return Part(self.position, None if self.stop is None else self.stop - self.position, self.etag, self.stream)

    def begins(self, head: Head) -> None:
        """A reply to ``next_part`` has begun. Raises WrongBits where it is not what was asked for."""
        if self.etag and head.etag != self.etag:
            raise WrongBits(f"the transfer goes on in another file: ETag {head.etag}, expected {self.etag}")
        stop = self.stop if self.stop is not None else head.total
        if (head.offset, head.length) != (self.position, stop - self.position) or self.total not in (-1, head.total):
            expected = f"bytes {self.position} to {stop} of a file of {max(self.total, stop)}"
            raise WrongBits(f"a reply brings {head.length} bytes from {head.offset} of {head.total}, not {expected}")
        self.etag, self.total, self.stop = head.etag, head.total, stop

    def received(self, count: int) -> None:
        """The next ``count`` bytes have come. Raises Broken for none, before all have."""
        if count == 0 and not self.is_whole:
            raise Broken(f"the reply ended at byte {self.position}, before byte {self.stop}")
        self.position += count
