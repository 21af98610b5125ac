"""Every error that a user of weightloom can meet, free of any transport.

    WeightloomError
    ├── InvalidInput          mend the request: a field is wrong
    │   ├── MalformedBody     the body is not JSON, or not a safetensors file
    │   ├── InvalidSpec       a model or tensor spec breaks a rule
    │   ├── InvalidW          a w is missing, extra, of the wrong shape or dtype, or not finite
    │   └── InvalidSelection  unknown tensor or dtype, rows or bytes outside the file
    ├── LimitExceeded         ask for less, or raise the named setting
    ├── NotFound              no such model
    ├── Conflict              the name is taken by another model
    ├── PreconditionFailed    the file is not the one that the ETag names
    └── Unavailable           try again later: not ready, or the registry cannot be reached

Each front maps these classes to its own status codes in one table; ``code`` is stable and is what programs should test.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

__all__ = [
    "Conflict",
    "InvalidInput",
    "InvalidSelection",
    "InvalidSpec",
    "InvalidW",
    "LimitExceeded",
    "MalformedBody",
    "NotFound",
    "PreconditionFailed",
    "Unavailable",
    "Violation",
    "WeightloomError",
]

MAX_SHOWN = 200


@dataclass(frozen=True)
class Violation:
    """One thing that is wrong: the field (as a path such as ``tensors[3].r``), what came, and what was expected."""

    field: str
    got: str
    expected: str

    def __str__(self) -> str:
        return f"{self.field}: got {self.got}, expected {self.expected}"

    def as_dict(self) -> dict[str, str]:
        """The three fields as a plain dict, for JSON."""
        return asdict(self)


class WeightloomError(Exception):
    """Base of all errors. ``code`` names the kind of error for programs, ``violations`` the fields for people."""

    code = "internal"

    def __init__(self, message: str, *, code: str | None = None, violations: Sequence[Violation] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or type(self).code
        self.violations = tuple(violations)

    @classmethod
    def at(cls, field: str, got: object, expected: str, *, code: str | None = None) -> WeightloomError:
        """An error about one field."""
        violation = Violation(field, shorten(got), expected)
        return cls(str(violation), code=code, violations=[violation])


def shorten(value: object) -> str:
    """``value`` as text that is safe to put into a message, cut to a readable length."""
    text = str(value)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}… ({len(text)} characters)"


class InvalidInput(WeightloomError):
    """A field of the request is wrong; the same request will fail again."""

    code = "invalid_request"


class MalformedBody(InvalidInput):
    """The body cannot be read: not JSON (``malformed_json``) or not safetensors (``malformed_safetensors``)."""

    code = "malformed_json"


class InvalidSpec(InvalidInput):
    """A model or tensor spec breaks a rule or a limit of the format."""

    code = "invalid_spec"


class InvalidW(InvalidInput):
    """``w_missing``, ``w_unexpected``, ``w_wrong_length``, ``w_wrong_type``, ``w_wrong_dtype`` or
    ``w_not_finite``."""

    code = "w_wrong_length"


class InvalidSelection(InvalidInput):
    """``dtype_unknown``, ``tensor_unknown``, ``rows_out_of_range`` or ``offset_out_of_range``."""

    code = "tensor_unknown"


class LimitExceeded(WeightloomError):
    """``body_too_large`` or ``output_too_large``: a documented limit of this server."""

    code = "output_too_large"


class NotFound(WeightloomError):
    """No model of this name or digest."""

    code = "model_not_found"


class Conflict(WeightloomError):
    """Another model already has this name; models are immutable."""

    code = "model_conflict"


class PreconditionFailed(WeightloomError):
    """If-Match names another file than the one this request makes."""

    code = "etag_mismatch"


class Unavailable(WeightloomError):
    """Not ready, or the registry cannot be read or written at the moment."""

    code = "registry_unavailable"
