"""Ports, taken before anything else is made, so that one that is taken already is told at once."""

from __future__ import annotations

import socket
from ipaddress import ip_address

__all__ = ["is_loopback", "listen", "reserve_port", "url_of"]


def reserve_port(host: str, port: int, *, shared: bool = False) -> socket.socket:
    """A bound socket that does not listen yet; 0 as ``port`` takes any free one. Raises OSError, saying which port.

    Hand it to the processes that are to accept from it. Or, with ``shared`` (SO_REUSEPORT), keep it: then processes may
    bind the same port themselves, and nobody else takes it meanwhile.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    reserved = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)  # asyncio's TCP_NODELAY asks for the last
    try:
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        reserved.bind((host, port))
    except OSError as error:
        reserved.close()
        raise OSError(f"cannot listen on {host}:{port}: {error.strerror or error}") from error
    return reserved


def listen(reserved: socket.socket, backlog: int) -> None:
    """Raises OSError where another process has reserved the port at the same time, and was first to listen.

    asyncio listens, too, but uvloop does not tell that it could not.
    """
    try:
        reserved.listen(backlog)
    except OSError as error:
        host, port = reserved.getsockname()[:2]
        raise OSError(f"cannot listen on {host}:{port}: {error.strerror or error}") from error


def is_loopback(host: str) -> bool:
    """Whether an address to listen on is reached from this machine alone."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def url_of(listener: socket.socket, scheme: str) -> str:
    """Where a listener is found."""
    host, port = listener.getsockname()[:2]
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
