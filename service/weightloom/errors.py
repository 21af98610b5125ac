"""Every error that a user of weightloom can meet, free of any transport.

    WeightloomError
    ├── InvalidInput          mend the request: a field is wrong
    │   ├── MalformedBody     the body is not JSON, or not a safetensors file
    │   ├── InvalidSpec       a model or tensor spec breaks a rule
    │   ├── InvalidFactors    imported factors are not what they are said to be
    │   ├── InvalidW          a w is missing, extra, of the wrong shape or dtype, or not finite
    │   └── InvalidSelection  unknown tensor or dtype, rows or bytes outside the file
    ├── LimitExceeded         ask for less, or raise the named setting
    ├── NotFound              no such model, no such imported factors
    ├── Conflict              the name is taken by another model
    ├── PreconditionFailed    the file is not the one that the ETag names
    ├── Unauthenticated       bring an API key that counts
    ├── Forbidden             the key that came may not do this
    ├── Overloaded            try again after ``retry_after`` seconds: this server has as much to do as it may
    ├── DeadlineExceeded      the answer would have come too late
    └── Unavailable           try again later: not ready, or the registry cannot be reached

Each front maps these classes to its own status codes in one table; ``code`` is stable and is what programs should test.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import ClassVar

__all__ = [
    "Conflict",
    "DeadlineExceeded",
    "Forbidden",
    "InvalidFactors",
    "InvalidInput",
    "InvalidSelection",
    "InvalidSpec",
    "InvalidW",
    "LimitExceeded",
    "MalformedBody",
    "NotFound",
    "Overloaded",
    "PreconditionFailed",
    "Unauthenticated",
    "Unavailable",
    "Violation",
    "WeightloomError",
]

MAX_SHOWN, MAX_SHOWN_NAMES = 200, 1000


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
    """Base of all errors. ``code`` names the kind of error for programs, ``violations`` the fields for people.

    Each class lists its codes, the first being its default; docs/errors.md is generated from these lists.
    """

    codes: ClassVar[dict[str, str]] = {"internal": "The server failed; its log has the cause."}

    def __init__(self, message: str, *, code: str | None = None, violations: Sequence[Violation] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or next(iter(self.codes))
        self.violations = tuple(violations)
        if self.code not in self.codes:
            raise ValueError(f"{type(self).__name__} has no code {self.code!r}")

    @classmethod
    def at(cls, field: str, got: object, expected: str, *, code: str | None = None) -> WeightloomError:
        """An error about one field."""
        violation = Violation(shorten(field, MAX_SHOWN_NAMES), shorten(got), shorten(expected, MAX_SHOWN_NAMES))
        return cls(str(violation), code=code, violations=[violation])


def shorten(value: object, limit: int = MAX_SHOWN) -> str:
    """``value`` as text that is safe to put into a message, cut to a readable length."""
    text = str(value)
    return text if len(text) <= limit else f"{text[:limit]}… ({len(text)} characters)"


class InvalidInput(WeightloomError):
    """A field of the request is wrong; the same request will fail again."""

    codes: ClassVar = {"invalid_request": "A field is unknown, missing or of the wrong type."}


class MalformedBody(InvalidInput):
    """The body cannot be read at all."""

    codes: ClassVar = {
        "malformed_json": "The body is not JSON.",
        "malformed_protobuf": "The message is not one of the gRPC contract.",
        "malformed_safetensors": "The body is not a safetensors file: truncated, overlapping, or against the format.",
    }


class InvalidSpec(InvalidInput):
    """A model or tensor spec breaks a rule or a limit of the format."""

    codes: ClassVar = {
        "invalid_spec": "A field of a model or tensor spec breaks a rule or a limit.",
        "factors_missing": "A tensor's imported factors are not here, or of another size: upload them first.",
    }


class InvalidFactors(InvalidInput):
    """Imported factors that were uploaded are not what they are said to be; nothing of them is kept."""

    codes: ClassVar = {
        "factors_mismatch": "The bytes that came have another SHA-256 than the one that the upload names.",
        "factors_not_finite": "Imported factors hold NaN, an infinity or a number beyond ±2^20.",
    }


class InvalidW(InvalidInput):
    """A w does not fit the model."""

    codes: ClassVar = {
        "w_wrong_length": "A w has another length (or number of dimensions) than its tensor's l.",
        "w_missing": "A tensor that is to be made takes a w, and none came.",
        "w_unexpected": "A w came for a tensor that the model does not have, or that takes none.",
        "w_wrong_type": "A w holds something that is not a number.",
        "w_wrong_dtype": "A w in a safetensors body is not F64, F32, F16 or BF16.",
        "w_not_finite": "A w holds NaN or infinity, or a number beyond float32.",
    }


class InvalidSelection(InvalidInput):
    """What is to be made of the model does not exist."""

    codes: ClassVar = {
        "tensor_unknown": "A name in `tensors` or `rows` is not one of the model's (or not selected).",
        "dtype_unknown": "`dtype` is not F32, F16 or BF16.",
        "rows_out_of_range": "`rows` reach outside of the tensor, or are empty.",
        "offset_out_of_range": "`offset` or `length` reach outside of the file.",
    }


class LimitExceeded(WeightloomError):
    """A documented limit of this server; the message names the setting."""

    codes: ClassVar = {
        "output_too_large": "The response would be longer than `max_output_bytes`, or no reader could hold the file.",
        "body_too_large": "The request is longer than `max_request_bytes`, `max_json_bytes` where it is JSON, or "
        "`max_factors_bytes` where it brings imported factors.",
    }


class NotFound(WeightloomError):
    """No model of this name or digest, or no imported factors of this digest."""

    codes: ClassVar = {
        "model_not_found": "No model has this name or digest.",
        "factors_not_found": "No imported factors here have this SHA-256.",
        "key_not_found": "No API key has this id (command line only).",
    }


class Conflict(WeightloomError):
    """Another model already has this name; models are immutable."""

    codes: ClassVar = {"model_conflict": "Another model already has this name; models are immutable."}


class PreconditionFailed(WeightloomError):
    """If-Match names another file than the one this request makes."""

    codes: ClassVar = {"etag_mismatch": "If-Match names another file than the one that this request makes."}


class Unauthenticated(WeightloomError):
    """No API key came, or none that counts."""

    codes: ClassVar = {
        "key_missing": "This server wants an API key, and none came.",
        "key_unknown": "No API key has this id and secret, or it was revoked, or it has expired.",
    }


class Forbidden(WeightloomError):
    """The API key is right, and may not do this."""

    codes: ClassVar = {"scope_missing": "The API key lacks the scope that this call needs."}


class Overloaded(WeightloomError):
    """The gate is full: ``retry_after`` (whole seconds) is when it is worth another try, here or on another replica."""

    codes: ClassVar = {
        "too_many_requests": "`max_streams` run and `max_queued` requests wait already; see Retry-After.",
        "quota_exceeded": "The API key has used up what it may in a minute; see Retry-After.",
        "too_many_bytes": "Requests and streams hold `max_bytes_in_flight` already; see Retry-After.",
    }

    def __init__(
        self, message: str, *, code: str | None = None, violations: Sequence[Violation] = (), retry_after: int = 1
    ) -> None:
        super().__init__(message, code=code, violations=violations)
        self.retry_after = retry_after


class DeadlineExceeded(WeightloomError):
    """The time that the client (or a setting) gave was over before the answer was whole."""

    codes: ClassVar = {
        "deadline_exceeded": "The client's deadline passed, or no place was free within `max_queue_seconds`.",
        "sender_stalled": "The client sent nothing more of its request's body for `stall_seconds`.",
        "reader_stalled": "The client took no byte for `stall_seconds`; seen in logs and metrics only.",
    }


class Unavailable(WeightloomError):
    """Not ready, or something that is needed cannot be used at the moment."""

    codes: ClassVar = {
        "registry_unavailable": "The registry cannot be read or written; the message says why.",
        "draining": "The server is stopping; running streams are finished, new ones belong on another replica.",
        "not_straight": "On Ray Serve: HAProxy does not know the replica yet; ask again in a moment.",
        "wrong_bits": "The known answer does not come out right: this machine must not serve.",
        "gpu_unavailable": "The GPU that the setting `device` names cannot be used; the server does not start.",
        "gpu_out_of_memory": "A GPU has no memory left for the work, with nothing kept there that could be given up.",
        "gpu_lost": "A GPU does not answer any more (the message has the driver's words); start the server anew.",
        "key_needed": "Other machines could reach the server and there is no API key; it does not start.",
        "tls_unavailable": "The files of the settings for TLS cannot be used; the server does not start.",
        "port_unavailable": "The server cannot listen on its port; it does not start.",
        "target_in_use": "Another run writes to the same target (`materialize` only).",
        "target_unavailable": "A file cannot be written, or reads back with other bytes (`materialize` only).",
        "worker_died": "A worker process ended, twice, while it made an item (`materialize` only).",
        "missing_extra": "A package is needed that is not installed (command line only).",
    }
