"""Errors as gRPC statuses with rich details (google.rpc), with the status of each class in one table."""

from __future__ import annotations

import logging
from typing import Any

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status

from weightloom import errors

__all__ = ["DOMAIN", "STATUS", "status_of", "trailers_of"]

DOMAIN = "weightloom"
# A limit is INVALID_ARGUMENT: the same request will never pass, and clients retry RESOURCE_EXHAUSTED.
STATUS: dict[type[errors.WeightloomError], grpc.StatusCode] = {
    errors.InvalidInput: grpc.StatusCode.INVALID_ARGUMENT,
    errors.LimitExceeded: grpc.StatusCode.INVALID_ARGUMENT,
    errors.NotFound: grpc.StatusCode.NOT_FOUND,
    errors.Conflict: grpc.StatusCode.ALREADY_EXISTS,
    errors.PreconditionFailed: grpc.StatusCode.FAILED_PRECONDITION,
    errors.Unauthenticated: grpc.StatusCode.UNAUTHENTICATED,
    errors.Forbidden: grpc.StatusCode.PERMISSION_DENIED,
    errors.Overloaded: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.DeadlineExceeded: grpc.StatusCode.DEADLINE_EXCEEDED,
    errors.Unavailable: grpc.StatusCode.UNAVAILABLE,
    errors.WeightloomError: grpc.StatusCode.INTERNAL,
}
# Clients refuse trailers beyond 8 KiB. The message is in them twice: percent-encoded, which takes up to three bytes for
# one, and in the details, whose base64 takes four bytes for three.
MAX_MESSAGE_BYTES, MAX_FIELD_BYTES, MAX_DESCRIPTION_BYTES = 1000, 500, 700
MAX_VIOLATIONS_BYTES = 2000

log = logging.getLogger(__name__)


def status_of(error: Exception) -> grpc.Status:
    """The status of any exception; one that no class covers is logged and told without its details."""
    if not isinstance(error, errors.WeightloomError):
        log.error("a call failed for a reason that no error class covers", exc_info=error)
        error = errors.WeightloomError("the server failed; its log has the cause")
    code = next(STATUS[base] for base in type(error).__mro__ if base in STATUS)
    message = _cut(error.message, MAX_MESSAGE_BYTES)
    details = [_packed(detail) for detail in _details(error)]
    return rpc_status.to_status(Status(code=code.value[0], message=message, details=details))


def trailers_of(error: Exception) -> tuple[tuple[str, str], ...]:
    """Trailers that belong to the error itself: how long gRPC's own retries wait where the gate was full."""
    if isinstance(error, errors.Overloaded):
        return (("grpc-retry-pushback-ms", str(error.retry_after * 1000)),)
    return ()


def _details(error: errors.WeightloomError) -> list[Any]:
    details = [ErrorInfo(reason=error.code, domain=DOMAIN)]
    if error.violations:
        details.append(BadRequest(field_violations=_violations(error)))
    if isinstance(error, errors.Overloaded):
        details.append(RetryInfo(retry_delay=Duration(seconds=error.retry_after)))
    return details


def _violations(error: errors.WeightloomError) -> list[BadRequest.FieldViolation]:
    """The first ones, as many as there is room for."""
    shown: list[BadRequest.FieldViolation] = []
    room = MAX_VIOLATIONS_BYTES
    for violation in error.violations:
        description = _cut(f"got {violation.got}, expected {violation.expected}", MAX_DESCRIPTION_BYTES)
        told = BadRequest.FieldViolation(field=_cut(violation.field, MAX_FIELD_BYTES), description=description)
        room -= told.ByteSize()
        if room < 0:
            break
        shown.append(told)
    return shown


def _packed(detail: Any) -> AnyMessage:
    packed = AnyMessage()
    packed.Pack(detail)
    return packed


def _cut(text: str, limit: int) -> str:
    """At most ``limit`` bytes of UTF-8, without the lone surrogates that it cannot hold."""
    data = text.encode(errors="backslashreplace")
    return data.decode() if len(data) <= limit else data[: limit - 3].decode(errors="ignore") + "…"
