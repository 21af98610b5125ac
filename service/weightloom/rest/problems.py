"""Errors as ``application/problem+json`` (RFC 9457), with the status of each class in one table."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from http import HTTPStatus

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from weightloom import errors
from weightloom.engine import Call, current_request_id
from weightloom.fabric.spec import violations_of
from weightloom.http_status import status_of

__all__ = ["MEDIA_TYPE", "ROUTING_CODES", "problem", "problem_of", "response_of"]

MEDIA_TYPE = "application/problem+json"
# By status. 307 is no error. 400, 408 and 431 are found before a request is one, and end the connection.
ROUTING_CODES = {
    307: "redirected",
    400: "malformed_http",
    404: "route_not_found",
    405: "method_not_allowed",
    408: "header_stalled",
    415: "unsupported_media_type",
    431: "header_too_large",
}

log = logging.getLogger(__name__)


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


def response_of(error: Exception, call: Call) -> Response:
    """The reply to any exception, with the headers that belong to it: Retry-After where the gate was full, for one."""
    status, document = problem_of(error, call)
    headers = dict(getattr(error, "headers", None) or {})
    if isinstance(error, errors.Overloaded):
        headers["retry-after"] = str(error.retry_after)
    if isinstance(error, errors.Unauthenticated):
        headers["www-authenticate"] = "Bearer"
    return Response(document, status, headers, MEDIA_TYPE)


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
