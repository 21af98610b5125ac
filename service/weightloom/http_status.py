"""The HTTP status of each class of errors: of REST, and of clients that meet these errors without a server."""

from __future__ import annotations

from weightloom import errors

__all__ = ["STATUS", "status_of"]

STATUS: dict[type[errors.WeightloomError], int] = {
    errors.InvalidInput: 422,
    errors.LimitExceeded: 413,
    errors.NotFound: 404,
    errors.Conflict: 409,
    errors.PreconditionFailed: 412,
    errors.Unauthenticated: 401,
    errors.Forbidden: 403,
    errors.Overloaded: 429,
    errors.DeadlineExceeded: 504,
    errors.Unavailable: 503,
    errors.WeightloomError: 500,
}


def status_of(error: errors.WeightloomError) -> int:
    """The HTTP status of the nearest class in the table."""
    return next(STATUS[base] for base in type(error).__mro__ if base in STATUS)
