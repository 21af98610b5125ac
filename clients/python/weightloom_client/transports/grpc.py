"""gRPC: the same calls over one HTTP/2 connection (extra ``grpc``)."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from weightloom.errors import LimitExceeded
from weightloom.http_status import STATUS as STATUS_OF_ERRORS

from weightloom_client.arrays import extra
from weightloom_client.errors import ServerError, server_error
from weightloom_client.factors import FactorBlob
from weightloom_client.protocol import Broken, Head, Part, Wanted
from weightloom_client.transports.base import Model, Timeouts, Tls, for_balancers

grpc = extra("grpc", "a grpc:// URL", "grpc")

from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo  # noqa: E402  (grpc is looked for first)
from grpc_status import rpc_status  # noqa: E402
from weightloom_proto.v1 import fabrication_pb2 as pb  # noqa: E402
from weightloom_proto.v1 import fabrication_pb2_grpc  # noqa: E402

from weightloom_client.transports import messages  # noqa: E402

__all__ = ["GrpcTransport"]

SLOWEST_UPLOAD = 1 << 17  # bytes per second
OPTIONS = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
# The statuses that REST has for the same errors.
STATUS = {
    "INVALID_ARGUMENT": 422,
    "NOT_FOUND": 404,
    "ALREADY_EXISTS": 409,
    "FAILED_PRECONDITION": 412,
    "RESOURCE_EXHAUSTED": 429,
    "DEADLINE_EXCEEDED": 504,
    "UNAVAILABLE": 503,
    "INTERNAL": 500,
    "UNAUTHENTICATED": 401,
    "PERMISSION_DENIED": 403,
    "UNIMPLEMENTED": 501,
}
STATUS_OF_LIMITS = dict.fromkeys(LimitExceeded.codes, STATUS_OF_ERRORS[LimitExceeded])
# From the network, or from grpc itself, where a server has not said more: another try may go better.
NETWORK = {"UNAVAILABLE", "INTERNAL", "UNKNOWN", "CANCELLED", "DEADLINE_EXCEEDED"}


class GrpcTransport:
    """See ``Transport``. headers: sent as metadata with every call."""

    def __init__(self, url: str, timeouts: Timeouts, headers: Mapping[str, str], tls: Tls) -> None:
        self.url, self._timeouts = url.rstrip("/"), timeouts
        parts = urlsplit(url)
        if not parts.hostname or not parts.port:
            raise ValueError(f"url: got {url!r}, expected grpc://host:port")
        options = [*OPTIONS, ("grpc.use_local_subchannel_pool", 1)]  # a connection of its own, closed with it
        self._channel = (
            grpc.secure_channel(parts.netloc, _credentials(tls), options)
            if parts.scheme == "grpcs"
            else grpc.insecure_channel(parts.netloc, options)
        )
        self._stub = fabrication_pb2_grpc.FabricationServiceStub(self._channel)  # type: ignore[no-untyped-call]
        self._metadata = _metadata_of(headers)

    def open(self, wanted: Wanted, part: Part) -> GrpcReply:
        """Fabricate, up to its first chunk."""
        request, metadata = messages.fabricate_request(wanted, part), _metadata_of(for_balancers(wanted, part))
        call = self._stub.Fabricate(request, metadata=self._metadata + metadata)
        return GrpcReply(call, part, self._timeouts.read)

    def create_model(self, spec: Mapping[str, Any]) -> Model:
        """CreateModel."""
        return self._model(self._stub.CreateModel, pb.CreateModelRequest(spec=messages.spec_message(spec)))

    def get_model(self, name: str) -> Model:
        """GetModel."""
        return self._model(self._stub.GetModel, pb.GetModelRequest(name=name))

    def list_models(self, after: str) -> tuple[list[Model], str]:
        """ListModels."""
        page = self._unary(self._stub.ListModels, pb.ListModelsRequest(after=after))
        return [messages.summary(model) for model in page.models], page.next

    def delete_model(self, name: str) -> None:
        """DeleteModel."""
        self._unary(self._stub.DeleteModel, pb.DeleteModelRequest(name=name))

    def set_residency(self, name: str, residency: str | None) -> Model:
        """SetResidency."""
        wanted = messages.residency_request(name, residency)
        return self._model(self._stub.SetResidency, wanted)

    def has_factors(self, blob: FactorBlob) -> bool:
        """GetFactors."""
        try:
            return bool(self._unary(self._stub.GetFactors, pb.GetFactorsRequest(sha256=blob.digest)).size == blob.size)
        except ServerError as error:
            if error.code != "factors_not_found":
                raise
            return False

    def put_factors(self, blob: FactorBlob) -> None:
        """PutFactors."""
        seconds = self._timeouts.read + blob.size / SLOWEST_UPLOAD  # grpc has no time-out for a stream that stalls
        self._unary(self._stub.PutFactors, messages.factors_chunks(blob), seconds)

    def close(self) -> None:
        """Close the connection, and what still runs over it."""
        self._channel.close()

    def _model(self, method: Callable[..., Any], request: Any) -> Model:
        return messages.model(self._unary(method, request))

    def _unary(self, method: Callable[..., Any], request: Any, timeout: float | None = None) -> Any:
        try:
            return method(request, timeout=timeout or self._timeouts.read, metadata=self._metadata)
        except grpc.RpcError as error:
            raise _failure(error) from error


class GrpcReply:
    """See ``Reply``."""

    step = 1 << 20  # a chunk

    def __init__(self, call: Any, part: Part, timeout: float) -> None:
        self._call, self._timeout = call, timeout
        first = self._next()
        if first is None:
            raise Broken("the stream ended before its first chunk")
        length = first.total_size - part.offset if part.length is None else part.length
        self.head = Head(first.etag, first.total_size, part.offset, length)
        self._chunk = memoryview(first.data)

    def readinto(self, view: memoryview) -> int:
        """One copy, from a chunk's message."""
        if not self._chunk:
            following = self._next()
            if following is None:
                return 0
            self._chunk = memoryview(following.data)
        count = min(len(view), len(self._chunk))
        view[:count] = self._chunk[:count]
        self._chunk = self._chunk[count:]
        return count

    def _next(self) -> Any:
        """The next chunk, None at the end. grpc has no time-out for a stream that stalls: a timer cancels it."""
        timer = threading.Timer(self._timeout, self._call.cancel)
        timer.daemon = True
        timer.start()
        try:
            return next(self._call, None)
        except grpc.RpcError as error:
            raise _failure(error) from error
        finally:
            timer.cancel()

    def cancel(self) -> None:
        """Cancel what has not come yet."""
        self._call.cancel()

    close = cancel


def _metadata_of(headers: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple((name.lower(), value) for name, value in headers.items())


def _credentials(tls: Tls) -> Any:
    ca, key, certificate = (
        None if path is None else Path(path).read_bytes() for path in (tls.ca, tls.key, tls.certificate)
    )
    return grpc.ssl_channel_credentials(ca, key, certificate)


def _failure(error: Any) -> ServerError | Broken:
    """What a server said, or that nothing could be heard of it."""
    code, details = error.code().name, _details(error)
    reason: Any = details.get(ErrorInfo.DESCRIPTOR.full_name)
    if reason is None and code in NETWORK:
        return Broken(f"{code}: {error.details()}")
    if reason is None and code == "RESOURCE_EXHAUSTED":  # grpc's own limit of a message, which no time mends
        return server_error(413, {"code": "body_too_large", "detail": error.details()})
    bad: Any = details.get(BadRequest.DESCRIPTOR.full_name, BadRequest())
    retry: Any = details.get(RetryInfo.DESCRIPTOR.full_name)
    violations = [messages.violation(field.field, field.description) for field in bad.field_violations]
    problem = {
        "code": reason.reason if reason is not None else code.lower(),
        "detail": error.details(),
        "errors": violations,
    }
    trailers = dict(error.trailing_metadata() or ())
    request_id = str(trailers.get("x-request-id", ""))
    retry_after = retry.retry_delay.ToTimedelta().total_seconds() if retry is not None else None
    status = STATUS_OF_LIMITS.get(problem["code"], STATUS.get(code, 500))
    return server_error(status, problem, request_id=request_id, retry_after=retry_after)


def _details(error: Any) -> dict[str, Any]:
    """google.rpc details by the name of their type."""
    status = rpc_status.from_call(error)
    found = {}
    for packed in status.details if status is not None else ():
        for kind in (ErrorInfo, BadRequest, RetryInfo):
            if packed.Is(kind.DESCRIPTOR):
                message = kind()
                packed.Unpack(message)
                found[kind.DESCRIPTOR.full_name] = message
    return found
