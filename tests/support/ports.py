"""Ports for servers that must be told theirs before they start."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["reserved_port"]


@contextmanager
def reserved_port() -> Iterator[int]:
    """A port of loopback that nobody else is given while this context is open, whether a server listens on it or not.

    A socket that is bound and does not listen keeps it: the system gives it neither to who asks for any port nor to a
    connection that goes out, and a connection to it is refused. Who asks for it by number, and with SO_REUSEADDR as
    servers do, may listen on it.
    """
    with socket.socket() as keeper:
        keeper.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        keeper.bind(("127.0.0.1", 0))
        yield keeper.getsockname()[1]
