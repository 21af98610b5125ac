"""REST's replies: their bytes as they come, and what those that bring none mean."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from contextlib import suppress
from email.utils import parsedate_to_datetime
from typing import Any

import urllib3
from urllib3.exceptions import HTTPError

from weightloom_client.errors import ServerError, server_error
from weightloom_client.protocol import Broken, Head, Part

__all__ = ["RestReply", "check", "data_of"]

CONTENT_RANGE = re.compile(r"bytes (?:(\d+)-\d+|\*)/(\d+)")


class RestReply:
    """See ``Reply``. url: whose it is. broke: called where it breaks off."""

    step = 1 << 20

    def __init__(
        self, reply: urllib3.BaseHTTPResponse, part: Part, url: str, broke: Callable[[], None] = lambda: None
    ) -> None:
        self._reply, self._url, self._broke, self._left, self._is_cancelled = reply, url, broke, 0, False
        try:
            self.head = _head_of(reply, part, url)
        except BaseException:
            self.close()
            raise
        self._left = self.head.length

    def readinto(self, view: memoryview) -> int:
        """One read of the socket: whatever has come is kept, though the connection may end right behind it.

        urllib3's own readinto would wait for all of ``view`` and lose what came where the rest does not.
        """
        try:
            data = self._reply.read1(len(view))
        except (HTTPError, OSError, ValueError) as error:
            if not self._is_cancelled:
                self._broke()
            raise Broken(f"{self._url}: the reply broke off: {error}") from error
        view[: len(data)] = data
        self._left -= len(data)
        return len(data)

    def cancel(self) -> None:
        """Closing would wait for the thread that reads."""
        self._is_cancelled = True
        with suppress(ValueError, RuntimeError, OSError):  # it has ended already
            self._reply.shutdown()

    def close(self) -> None:
        """A connection whose reply was not read to its end cannot be used again."""
        if self._left == 0:
            self._reply.release_conn()
        self._reply.close()


def _head_of(reply: urllib3.BaseHTTPResponse, part: Part, url: str) -> Head:
    """Raises Broken where the head is not whole: a proxy, or a server that died while it wrote."""
    headers = reply.headers
    if "ETag" not in headers or not headers.get("Content-Length", "").isdecimal():
        raise Broken(f"{url}: the reply broke off in its head, or is none of weightloom's")
    length = int(headers["Content-Length"])
    found = CONTENT_RANGE.fullmatch(headers.get("Content-Range", ""))
    if found is None:
        return Head(headers["ETag"], length, 0, length)
    return Head(headers["ETag"], int(found[2]), int(found[1]) if found[1] else part.offset, length)


def check(reply: urllib3.BaseHTTPResponse, url: str) -> None:
    """Raise what the reply's status says, unless it is one of success."""
    if not 200 <= reply.status < 300:
        error = _refusal(reply, url)
        error.add_note(f"so says {url}")
        raise error


def data_of(reply: urllib3.BaseHTTPResponse, url: str) -> bytes:
    """The rest of it; its connection can be used again then. Raises Broken."""
    try:
        return reply.data
    except HTTPError as error:
        raise Broken(f"{url}: a reply with status {reply.status} broke off: {error}") from error


def _refusal(reply: urllib3.BaseHTTPResponse, url: str) -> ServerError:
    data = data_of(reply, url)
    elsewhere = f"redirected to {reply.headers['Location']}: " if "Location" in reply.headers else ""
    problem: Any = {"detail": elsewhere + data[:200].decode(errors="replace")}
    with suppress(ValueError):
        problem = json.loads(data)
    return server_error(
        reply.status,
        problem if isinstance(problem, dict) else {},
        request_id=reply.headers.get("X-Request-Id", ""),
        retry_after=_seconds(reply.headers.get("Retry-After", "")),
    )


def _seconds(retry_after: str) -> float | None:
    """Of a Retry-After, which is a number or a date."""
    if retry_after.isdigit():
        return float(retry_after)
    try:
        return max(0.0, parsedate_to_datetime(retry_after).timestamp() - time.time())
    except ValueError:
        return None
