"""Writes the parts of docs/ that repeat what the code says (``make docs``); a test fails where it was forgotten."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from weightloom import errors
from weightloom.cli.serve import default_of
from weightloom.http_status import STATUS
from weightloom.rest.problems import ROUTING_CODES
from weightloom.rpc.status import STATUS as GRPC_STATUS
from weightloom.settings import Settings
from weightloom.telemetry.metrics import METRICS

DOCS = Path(__file__).parent
SETTINGS_HEAD = """# Settings

Generated from `service/weightloom/settings.py` by `make docs`.

Each is an environment variable and an option of `weightloom serve` (`max_page`: `--max-page`); the option wins.
An empty variable is a setting left out. `GET /v1/info` shows the limits that a running server obeys. Limits of the
model format itself (2^48 elements in a tensor, r ≤ 4096, l and hidden_dim ≤ 2^20, l·r and hidden_dim·r ≤ 2^28, 100,000
tensors) are part of the contract and not settings.

| setting | environment | default | what it does |
|---|---|---|---|
"""
ERRORS_HEAD = """# Errors

Generated from `service/weightloom/errors.py` by `make docs`.

Over REST every error is an `application/problem+json` document (RFC 9457): `type`, `title`, `status`, `detail`, a
stable `code`, the `request_id` that the server's log has, too, and for wrong fields `errors`, a list of `field`, `got`
and `expected`. Errors are sent before the first byte of a 200; should a stream fail later, the connection is cut, so
that the body is short and never wrong.

Over gRPC it is the status of the call, with rich details (`grpc-status-details-bin`): `google.rpc.ErrorInfo` with the
code as `reason` and the domain `weightloom`, `BadRequest` for wrong fields, `RetryInfo` where a retry is worth it. A
message more than 1 MiB beyond `max_request_bytes` is refused by gRPC itself, unread: `RESOURCE_EXHAUSTED`, no details.

| code | REST | gRPC | meaning |
|---|---|---|---|
"""
METRICS_HEAD = """# Metrics

Generated from `service/weightloom/telemetry/metrics.py` by `make docs`.

`GET /metrics` answers in Prometheus' text format, whatever the gate and the readiness say. With several workers any of
them answers for all; the usual `process_…` and `python_…` metrics are there with a single process only.

Labels take few values: `front` is `rest` or `grpc`; `call` is `fabricate`, `create_model`, `get_model`, `list_models`,
`delete_model`, `set_residency`, `put_factors` or `get_factors`; `code` is `ok`, `cancelled` or one of
[errors.md](errors.md); `store` is `T` or `PQS`. What fits none is `other`, such as a call to an unknown path. Health,
readiness, metrics, `/v1/info` and the pages for browsers are not counted. Histograms of seconds reach from 100 µs to
100 s in steps of 1, 2.5 and 5.

| metric | type | labels | meaning | what to look at |
|---|---|---|---|---|
"""
ROUTING = {
    "redirected": "No error: the file comes from the server's own address, in `Location` "
    "([api.md](api.md#straight-from-a-replica)).",
    "malformed_http": "What came is not a request of HTTP/1.1; the connection is closed.",
    "header_stalled": "The request's line and headers did not come within `header_seconds`; the connection is closed.",
    "header_too_large": "The request's line and headers are longer than `max_header_bytes`, or more than 256 headers; "
    "the connection is closed.",
    "route_not_found": "There is nothing at this path.",
    "method_not_allowed": "The path does not take this method.",
    "unsupported_media_type": "POST /fabricate takes application/json and application/octet-stream.",
}


def settings_page() -> str:
    """docs/settings.md."""
    return SETTINGS_HEAD + "".join(f"| {' | '.join(row)} |\n" for row in _settings())


def _settings() -> Iterator[tuple[str, ...]]:
    for name, field in Settings.model_fields.items():
        default = default_of(field)
        default = default if field.default is None or field.default_factory else f"`{default}`"
        yield f"`{name}`", f"`WEIGHTLOOM_{name.upper()}`", default, str(field.description)


def errors_page() -> str:
    """docs/errors.md."""
    rows = sorted(_errors())
    return ERRORS_HEAD + "".join(f"| `{code}` | {status} | {grpc} | {text} |\n" for status, code, grpc, text in rows)


def _errors() -> Iterator[tuple[int, str, str, str]]:
    for kind in (errors.WeightloomError, *_subclasses(errors.WeightloomError)):
        status = next(STATUS[base] for base in kind.__mro__ if base in STATUS)
        grpc = next(GRPC_STATUS[base] for base in kind.__mro__ if base in GRPC_STATUS).name
        yield from ((status, code, f"`{grpc}`", text) for code, text in kind.codes.items())
    yield from ((status, code, "", ROUTING[code]) for status, code in ROUTING_CODES.items())


def _subclasses(kind: type[errors.WeightloomError]) -> Iterator[type[errors.WeightloomError]]:
    for subclass in kind.__subclasses__():
        yield subclass
        yield from _subclasses(subclass)


def metrics_page() -> str:
    """docs/metrics.md."""
    rows = ((f"`{m.name}`", m.kind, ", ".join(f"`{x}`" for x in m.labels), m.help, m.watch) for m in METRICS)
    return METRICS_HEAD + "".join(f"| {' | '.join(row)} |\n" for row in rows)


PAGES = {"settings.md": settings_page, "errors.md": errors_page, "metrics.md": metrics_page}

if __name__ == "__main__":
    for name, page in PAGES.items():
        (DOCS / name).write_text(page(), encoding="utf-8")
