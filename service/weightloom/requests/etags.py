"""Conditions on the file that a request makes, as HTTP's If-Match and If-None-Match write them."""

from __future__ import annotations

from weightloom.errors import PreconditionFailed

__all__ = ["check_if_match", "names_etag"]


def names_etag(condition: str, etag: str) -> bool:
    """Whether a condition ("*", or a list of ETags) names this ETag."""
    return condition.strip() == "*" or etag in (tag.strip() for tag in condition.split(","))


def check_if_match(condition: str, etag: str, field: str) -> None:
    """Raise PreconditionFailed where ``condition`` ("" for none), which came as ``field``, does not name ``etag``."""
    if condition and not names_etag(condition, etag):
        raise PreconditionFailed.at(field, condition, f"{etag}, the ETag of the file that this request makes")
