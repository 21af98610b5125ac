"""Large files straight from a replica: which of the addresses that a balancer's replies name are followed.

A server that has an address of its own answers 307 to whoever asks for a large file through a balancer. Where that
address cannot be used, the balancer is asked again and told to send the file itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Literal, get_args
from urllib.parse import urlsplit

__all__ = ["CONNECT_SECONDS", "HEADER", "Direct", "Redirects"]

Direct = Literal["follow", "insecure", "off"]
HEADER = "X-Weightloom-Direct"
CONNECT_SECONDS = 3.0  # at most, for a connection to such an address: where none comes, there is the balancer
AVOIDED_SECONDS = 60.0  # for how long an address that failed is not followed again


class Redirects:
    """For the server at ``url``. mode: "follow", "insecure" (from https:// to http:// too), "off". Thread-safe.

    Raises ValueError for another mode.
    """

    def __init__(self, url: str, mode: Direct, clock: Callable[[], float] = time.monotonic) -> None:
        if mode not in get_args(Direct):
            raise ValueError(f"direct: got {mode!r}, expected one of {', '.join(get_args(Direct))}")
        self._is_secure, self._mode, self._clock = urlsplit(url).scheme == "https", mode, clock
        self._failed: dict[str, float] = {}

    @property
    def are_followed(self) -> bool:
        """Whether any is."""
        return self._mode != "off"

    def address(self, location: str) -> str:
        """The scheme, host and port of a Location that is to be followed, or ""."""
        address = _address_in(location)
        if address in self._avoided():
            return ""
        return "" if self._mode != "insecure" and self.is_downgrade(address) else address

    def is_downgrade(self, address: str) -> bool:
        """Whether what is secret here would be readable on the way there."""
        return self._is_secure and not address.startswith("https:")

    def failed(self, address: str) -> None:
        """Leave it alone for a while."""
        self._failed = {**self._avoided(), address: self._clock() + AVOIDED_SECONDS}

    def _avoided(self) -> dict[str, float]:
        now = self._clock()
        return {address: until for address, until in self._failed.items() if until > now}


def _address_in(location: str) -> str:
    try:
        parts = urlsplit(location)
        is_one = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # no port, or no address of IPv6
        return ""
    address = f"{parts.scheme}://{parts.netloc}"
    return address if is_one and location.startswith(address) else ""  # urlsplit leaves blanks and tabs away
