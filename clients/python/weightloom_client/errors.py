"""Every error of the client, sorted by what to do next.

    WeightloomClientError
    ├── ServerError          a server answered with a problem: ``code``, ``detail``, ``errors``, ``request_id``
    │   ├── RequestRejected  mend the request (``errors`` names the fields); the same one will fail again
    │   │   ├── ModelNotFound    register the model, or mend its name
    │   │   └── ModelConflict    take another name: this one has another model
    │   ├── ServerBusy       try again later, after ``retry_after`` seconds: full, stopping, or too slow
    │   └── ServerFailed     tell the operator, with ``request_id``: the server's log has the cause
    ├── ServerUnreachable    look at the address and the network: no answer, or transfers that broke off on end
    └── WrongBits            do not use what came: it is not what seed and w define

Wrong arguments that never reach a server raise the errors of ``weightloom.errors`` or Python's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = [
    "NO_CODE",
    "ModelConflict",
    "ModelNotFound",
    "RequestRejected",
    "ServerBusy",
    "ServerError",
    "ServerFailed",
    "ServerUnreachable",
    "WeightloomClientError",
    "WrongBits",
    "server_error",
]

NO_CODE = "unknown"  # where what answers is no server of ours


class WeightloomClientError(Exception):
    """Base of the client's errors."""


class ServerError(WeightloomClientError):
    """A server answered with a problem.

    status: as in HTTP, whatever the transport. code: stable, what programs should test. errors: field, got and expected
    of each field that is wrong. request_id: also in the server's log. retry_after: seconds, where the server said it.
    """

    def __init__(
        self, status: int, problem: Mapping[str, Any], *, request_id: str = "", retry_after: float | None = None
    ) -> None:
        self.status, self.retry_after = status, retry_after
        self.code = str(problem.get("code", NO_CODE))
        self.detail = str(problem.get("detail", ""))
        self.errors: list[dict[str, str]] = list(problem.get("errors") or [])
        self.request_id = request_id or str(problem.get("request_id", ""))
        where = f" (request {self.request_id})" if self.request_id else ""
        super().__init__(f"{status} {self.code}: {self.detail}{where}")


class RequestRejected(ServerError):
    """The request is wrong, or asks for too much."""


class ModelNotFound(RequestRejected):
    """No model of this name or digest."""


class ModelConflict(RequestRejected):
    """The name has another model."""


class ServerBusy(ServerError):
    """All tries met a server that was full, not ready, stopping, or too slow."""


class ServerFailed(ServerError):
    """The server has a fault."""


class ServerUnreachable(WeightloomClientError):
    """No connection, or it broke off again and again."""


class WrongBits(WeightloomClientError):
    """What was received differs from what the model's seed and w define, or is no whole file."""


BUSY = (408, 429, 502, 503, 504)
BY_CODE = {"model_not_found": ModelNotFound, "model_conflict": ModelConflict}


def server_error(
    status: int, problem: Mapping[str, Any], *, request_id: str = "", retry_after: float | None = None
) -> ServerError:
    """The error of the class that says what to do next.

    A 500 without a code is no server's of ours: Ray's HAProxy says so where it should say 502 or 503.
    """
    is_busy = status in BUSY or (status == 500 and "code" not in problem)
    kind: type[ServerError] = ServerBusy if is_busy else ServerFailed if status >= 500 else RequestRejected
    kind = BY_CODE.get(str(problem.get("code")), kind)
    return kind(status, problem, request_id=request_id, retry_after=retry_after)
