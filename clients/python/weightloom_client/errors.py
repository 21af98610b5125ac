"""What can go wrong between a client and a server.

WeightloomClientError
├── ServerError         the server answered with a problem: ``status``, ``code``, ``detail`` say which
└── ServerUnreachable   no answer, or a transfer that broke off more often than it may
"""

from __future__ import annotations

from typing import Any

__all__ = ["ServerError", "ServerUnreachable", "WeightloomClientError"]


class WeightloomClientError(Exception):
    """Base of the client's errors."""


class ServerError(WeightloomClientError):
    """The server refused. ``code`` is stable; ``errors`` lists field, got and expected."""

    def __init__(self, status: int, problem: dict[str, Any]) -> None:
        self.status = status
        self.code = str(problem.get("code", "unknown"))
        self.detail = str(problem.get("detail", ""))
        self.errors: list[dict[str, str]] = problem.get("errors", [])
        super().__init__(f"{status} {self.code}: {self.detail}")


class ServerUnreachable(WeightloomClientError):
    """No connection, or it broke off again and again."""
