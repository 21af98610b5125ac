"""Errors as ``application/problem+json`` (RFC 9457), with the status of each class in one table."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from http import HTTPStatus

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from weightloom import errors
from weightloom.engine import Call, current_request_id
from weightloom.fabric.spec import violations_of

__all__ = ["MEDIA_TYPE", "ROUTING_CODES", "STATUS", "headers_of", "problem", "problem_of", "status_of"]

MEDIA_TYPE = "application/problem+json"
STATUS: dict[type[errors.WeightloomError], int] = {
    errors.InvalidInput: 422,
    errors.LimitExceeded: 413,
    errors.NotFound: 404,
    errors.Conflict: 409,
    errors.PreconditionFailed: 412,
    errors.Overloaded: 429,
    errors.DeadlineExceeded: 504,
    errors.Unavailable: 503,
    errors.WeightloomError: 500,
}
ROUTING_CODES = {404: "route_not_found", 405: "method_not_allowed", 415: "unsupported_media_type"}  # by status

log = logging.getLogger(__name__)


def status_of(error: errors.WeightloomError) -> int:
    """The HTTP status of the nearest class in the table."""
    return next(STATUS[base] for base in type(error).__mro__ if base in STATUS)


def problem(status: int, code: str, detail: str, violations: Sequence[errors.Violation] = ()) -> bytes:
    """One problem document, with the id of the current call."""
    document = {
        "type": f"urn:weightloom:problem:{code}",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "code": code,
        "request_id": current_request_id(),
    }
    if violations:
        document["errors"] = [violation.as_dict() for violation in violations]
    # What came may hold lone surrogates, which UTF-8 cannot; "\\ud800" is how JSON spells one.
    return json.dumps(document, ensure_ascii=False).encode(errors="backslashreplace")


def problem_of(error: Exception, call: Call) -> tuple[int, bytes]:
    """Status and document for any exception, whose code ``call`` takes over.

    One that no table knows is logged and told without its details.
    """
    status, call.code, detail, violations = _told(error)
    return status, problem(status, call.code, detail, violations)


def _told(error: Exception) -> tuple[int, str, str, Sequence[errors.Violation]]:
    if isinstance(error, HTTPException) and error.status_code == 400:  # FastAPI's own, where parsing fails oddly
        error = errors.MalformedBody(f"the body is not JSON: {error.__cause__ or error.detail}", code="malformed_json")
    if isinstance(error, errors.WeightloomError):
        return status_of(error), error.code, error.message, error.violations
    if isinstance(error, HTTPException):
        return error.status_code, ROUTING_CODES.get(error.status_code, "http_error"), str(error.detail), ()
    if isinstance(error, RequestValidationError):
        violations = violations_of(error.errors())
        return 422, "invalid_request", "; ".join(map(str, violations)), violations
    log.error("a request failed for a reason that no error class covers", exc_info=error)
    return 500, "internal", "the server failed; its log has the cause", ()


def headers_of(error: Exception) -> list[tuple[bytes, bytes]]:
    """Headers that belong to the error itself: Retry-After where the gate was full."""
    if isinstance(error, errors.Overloaded):
        return [(b"retry-after", str(error.retry_after).encode())]
    return []
