"""Whatever comes over gRPC is refused with a status that says why, at once, and costs the server nothing."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import grpc
import pytest
from fuzz.examples import register
from fuzz.messages import METHODS, SERVICE, calls
from fuzz.trying import tried
from support.rpc import channel_to, read_failure
from support.server import Server, running_server

CHUNKS = 3  # as many of a stream are read: it may be endless
SECONDS = 60
REFUSALS = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.ALREADY_EXISTS,
    grpc.StatusCode.FAILED_PRECONDITION,
}


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running_server(tmp_path_factory.mktemp("rpc") / "data", log_format="json") as running:
        register(running)
        yield running


def outcome(channel: grpc.Channel, method: str, sent: Sequence[bytes]) -> grpc.StatusCode:
    """How a call ends; one that is refused must say why, in a code of the contract."""
    descriptor = next(one for one in METHODS if one.name == method)
    kind = (
        f"{'stream' if descriptor.client_streaming else 'unary'}_{'stream' if descriptor.server_streaming else 'unary'}"
    )
    call = getattr(channel, kind)(f"/{SERVICE.full_name}/{method}")
    try:
        reply = call(iter(sent) if descriptor.client_streaming else sent[0], timeout=SECONDS)
        if descriptor.server_streaming:
            list(itertools.islice(reply, CHUNKS))
            reply.cancel()
    except grpc.RpcError as error:
        failure = read_failure(error)
        assert failure.reason, (failure, method, sent)
        assert failure.status in REFUSALS, (failure, method, sent)
        return failure.status
    return grpc.StatusCode.OK


def test_any_message_is_answered_or_refused(target: Server) -> None:
    with channel_to(target.grpc_target) as channel:

        @tried(calls(), 400)
        def check(call: tuple[str, list[bytes]]) -> None:
            outcome(channel, *call)

        check()
    assert target.request("GET", "/readyz").status == 200
    assert '"level": "ERROR"' not in target.log.read_text()
    assert "Traceback" not in target.log.read_text()
