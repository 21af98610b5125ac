"""``python -m weightloom.health [URL]``: exit code 0 where a server is ready, 1 and a line that says why where not.

For orchestrators that run a command in the server's container. It imports nothing but the standard library, so that it
ends within a moment. Without URL it asks the server that its own environment (WEIGHTLOOM_HOST, WEIGHTLOOM_PORT) starts.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from urllib.parse import urlsplit

__all__ = ["default_url", "main", "problem_of"]

TIMEOUT_SECONDS = 4
EVERYWHERE = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # what a server binds, and where it then answers


def default_url(environment: Mapping[str, str]) -> str:
    """Where the server that is set up by ``environment`` says whether it is ready."""
    host = environment.get("WEIGHTLOOM_HOST", "127.0.0.1")
    host = EVERYWHERE.get(host, host)
    scheme, port = (
        "https" if environment.get("WEIGHTLOOM_TLS_CERT") else "http",
        environment.get("WEIGHTLOOM_PORT", "8000"),
    )
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}/readyz"


def problem_of(url: str) -> str | None:
    """What is wrong with the server; None where it answers 200."""
    try:
        parts = urlsplit(url)
        connection = _connection(parts.scheme, parts.hostname or "", parts.port)
    except ValueError as error:
        return f"{url}: {error}"
    try:
        connection.request("GET", parts.path or "/readyz")
        reply = connection.getresponse()
        text = reply.read(4096).decode(errors="replace")
    except (OSError, HTTPException) as error:
        return f"{url}: {error or type(error).__name__}"
    finally:
        connection.close()
    return None if reply.status == 200 else f"{url}: {reply.status} {text}"


def _connection(scheme: str, host: str, port: int | None) -> HTTPConnection:
    if scheme != "https":
        return HTTPConnection(host, port, timeout=TIMEOUT_SECONDS)
    import ssl

    context = ssl.create_default_context()  # whose certificate it is does not matter: nothing is told to the server
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return HTTPSConnection(host, port, timeout=TIMEOUT_SECONDS, context=context)


def main() -> None:
    """Ask once."""
    if problem := problem_of(sys.argv[1] if len(sys.argv) > 1 else default_url(os.environ)):
        sys.exit(problem)


if __name__ == "__main__":
    main()
