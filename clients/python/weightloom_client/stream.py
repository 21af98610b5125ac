"""A stream of a file's bytes that goes on, on whatever replica, until it is whole: or an error, but never short."""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

from weightloom_client.protocol import Transfer, Wanted
from weightloom_client.replicas import RETRIED, Replicas
from weightloom_client.transports import Reply

__all__ = ["Stream"]

STEP = 1 << 20


class Stream:
    """Reads what ``transfer`` wants of the file ``wanted``, in order, into the caller's memory.

    progress: called with how many bytes have just come. shift: see ``Replicas.cursor``. Close it when it is not read to
    its end. All methods raise ServerError, ServerUnreachable and WrongBits. One thread at a time; ``abandon`` may come
    from any. is_opening: whether it waits for a reply's head.
    """

    is_opening = False

    def __init__(
        self, replicas: Replicas, wanted: Wanted, transfer: Transfer, progress: Callable[[int], None], shift: int = 0
    ) -> None:
        self._wanted, self._transfer, self._progress = wanted, transfer, progress
        self._cursor = replicas.cursor(shift)
        self._reply: Reply | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def step(self) -> int:
        """Bytes to read at a time, for who passes them on."""
        return self._reply.step if self._reply is not None else STEP

    def open(self) -> None:
        """Wait for the head: from then on the transfer's ``etag`` and ``total`` are known."""
        while self._reply is None:
            self.is_opening = True
            try:
                self._try(self._begin)
            finally:
                self.is_opening = False

    def read_into(self, view: memoryview) -> None:
        """Fill all of ``view`` with the next bytes."""
        done = 0

        def step() -> None:
            nonlocal done
            count = self._read_some(view[done:])
            done += count
            self._progress(count)

        while done < len(view):
            self.open()
            self._try(step)

    def close(self) -> None:
        """Let go of the reply that is being read."""
        reply, self._reply = self._reply, None
        if reply is not None:
            reply.close()

    def abandon(self) -> None:
        """Let whoever reads end with AbortedError, at once where bytes were to come."""
        self._cursor.abandon()
        reply = self._reply
        if reply is not None:
            reply.cancel()

    def _begin(self) -> None:
        self._cursor.check()
        reply = self._cursor.transport.open(self._wanted, self._transfer.next_part())
        try:
            self._transfer.begins(reply.head)
            self._reply = reply
            self._cursor.check()  # behind what ``abandon`` cancels
        except BaseException:
            self._reply = None
            reply.close()
            raise

    def _read_some(self, view: memoryview) -> int:
        reply = self._reply
        assert reply is not None
        count = reply.readinto(view[: reply.step])
        self._transfer.received(count)
        self._cursor.progressed()
        if self._transfer.is_whole:
            self.close()
        return count

    def _try(self, step: Callable[[], None]) -> None:
        try:
            step()
        except RETRIED as error:
            self.close()
            self._cursor.failed(error)
