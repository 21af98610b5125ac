"""The gRPC front over engines that fail, stop or are not ready: statuses, details and health."""

from __future__ import annotations

import asyncio
import logging
import random
import socket
import time
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from itertools import islice
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub
from support.rpc import read_failure, stub_of
from weightloom import errors
from weightloom.engine import Call, Engine, Observer
from weightloom.fabric import load_backend, safetensors
from weightloom.fabric.device import Cpu
from weightloom.registry import SqliteRegistry
from weightloom.rpc import RpcFront, service
from weightloom.rpc.service import SERVICE
from weightloom.rpc.status import STATUS
from weightloom.settings import Settings
from weightloom_proto.v1 import fabrication_pb2 as pb
from weightloom_proto.v1.fabrication_pb2_grpc import FabricationServiceStub

SERVING, NOT_SERVING = HealthCheckResponse.SERVING, HealthCheckResponse.NOT_SERVING
SPEC = pb.ModelSpec(tensors=[pb.TensorSpec(name="t", shape=[64, 64])])
ONES = pb.TensorSpec(name="t", shape=[1 << 18, 1 << 18], constant=pb.Constant(value="ones"))
ENDLESS = pb.FabricateRequest(spec=pb.ModelSpec(tensors=[ONES]))  # 256 GiB
REQUEST = pb.FabricateRequest(spec=SPEC, w={"t": pb.Vector(values=[1] * 64)})


class Listening(Observer):
    def __init__(self) -> None:
        self.ended: list[tuple[str, str, str]] = []

    def call_ended(self, call: Call) -> None:
        self.ended.append((call.front, call.name, call.code))


class Failing(Engine):
    """``get_model`` and readiness raise ``error``; without one the former never ends, and the latter is given."""

    error: Exception | None = None
    asked = False

    async def get_model(self, name_or_digest: str) -> Any:
        self.asked = True
        if self.error:
            raise self.error
        await asyncio.sleep(3600)

    def check_ready(self) -> None:
        if self.error:
            raise self.error


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Failing]:
    monkeypatch.setattr("weightloom.rpc.health.INTERVAL", 0.01)
    device = Cpu(load_backend("numpy"))
    made = Failing(SqliteRegistry(None), device, Settings().engine_limits(device), Listening())
    yield made
    made.close()


@asynccontextmanager
async def front_over(engine: Engine) -> AsyncIterator[tuple[RpcFront, Any]]:
    """A front that listens, and a channel to it."""
    front = RpcFront(engine, Settings(grpc_port=0))
    await front.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{front.port}") as channel:
        try:
            yield front, channel
        finally:
            await front.stop(0)


def run(engine: Engine, meet: Callable[[RpcFront, Any], Awaitable[Any]]) -> Any:
    async def main() -> Any:
        async with front_over(engine) as (front, channel):
            return await meet(front, channel)

    return asyncio.run(asyncio.wait_for(main(), 240))


def failed_call(engine: Engine, error: Exception, **options: Any) -> Any:
    engine.error = error  # type: ignore[attr-defined]

    async def meet(front: RpcFront, channel: Any) -> Any:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await FabricationServiceStub(channel).GetModel(pb.GetModelRequest(name="m"), **options)
        return read_failure(caught.value)

    return run(engine, meet)


def subclasses(kind: type[errors.WeightloomError]) -> Iterator[type[errors.WeightloomError]]:
    yield kind
    for each in kind.__subclasses__():
        yield from subclasses(each)


EXPECTED = {
    "InvalidInput": "INVALID_ARGUMENT",
    "MalformedBody": "INVALID_ARGUMENT",
    "InvalidSpec": "INVALID_ARGUMENT",
    "InvalidFactors": "INVALID_ARGUMENT",
    "InvalidW": "INVALID_ARGUMENT",
    "InvalidSelection": "INVALID_ARGUMENT",
    "LimitExceeded": "INVALID_ARGUMENT",
    "NotFound": "NOT_FOUND",
    "Conflict": "ALREADY_EXISTS",
    "PreconditionFailed": "FAILED_PRECONDITION",
    "Unauthenticated": "UNAUTHENTICATED",
    "Forbidden": "PERMISSION_DENIED",
    "Overloaded": "RESOURCE_EXHAUSTED",
    "DeadlineExceeded": "DEADLINE_EXCEEDED",
    "Unavailable": "UNAVAILABLE",
    "WeightloomError": "INTERNAL",
}


@pytest.mark.parametrize("kind", list(subclasses(errors.WeightloomError)), ids=lambda kind: kind.__name__)
def test_every_class_of_errors_has_its_status_and_details(engine: Failing, kind: type[errors.WeightloomError]) -> None:
    failure = failed_call(engine, kind.at("field", "x", "y"), metadata=(("x-request-id", "its-id"),))
    assert failure.status.name == EXPECTED[kind.__name__]
    assert failure.message == "field: got x, expected y"
    assert (failure.reason, failure.domain, failure.fields) == (next(iter(kind.codes)), "weightloom", ["field"])
    assert failure.trailers["x-request-id"] == "its-id"
    assert engine.observer.ended == [("grpc", "get_model", failure.reason)]  # type: ignore[attr-defined]


def test_no_error_class_is_left_to_the_root() -> None:
    assert set(errors.WeightloomError.__subclasses__()) < set(STATUS)


def test_details_are_cut_to_what_trailers_may_hold(engine: Failing) -> None:
    violations = [errors.Violation("ä" * 400, "ö" * 400, "\ud800") for _ in range(100)]
    failure = failed_call(engine, errors.InvalidSpec("ü" * 5000, violations=violations))
    assert (failure.status, failure.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "invalid_spec")
    assert failure.message.startswith("üüü")
    assert failure.message.endswith("…")
    assert 1 <= len(failure.fields) < 100


def test_a_full_gate_says_when_to_come_again(engine: Failing) -> None:
    failure = failed_call(engine, errors.Overloaded("full", retry_after=7))
    assert (failure.status, failure.retry_after) == (grpc.StatusCode.RESOURCE_EXHAUSTED, 7)
    assert failure.trailers["grpc-retry-pushback-ms"] == "7000"


def test_an_unforeseen_failure_is_logged_and_told_without_its_details(
    engine: Failing, caplog: pytest.LogCaptureFixture
) -> None:
    failure = failed_call(engine, ZeroDivisionError("the secret"))
    assert (failure.status, failure.reason) == (grpc.StatusCode.INTERNAL, "internal")
    assert failure.message == "the server failed; its log has the cause"
    assert "ZeroDivisionError: the secret" in caplog.text
    assert engine.observer.ended == [("grpc", "get_model", "internal")]  # type: ignore[attr-defined]


def assert_nothing_failed(caplog: pytest.LogCaptureFixture) -> None:
    """No traceback of ours; grpc itself may log one when a test's event loop is closed beneath it."""
    assert not [one for one in caplog.records if one.exc_info and one.name.startswith("weightloom")]


def test_a_deadline_ends_the_call_on_both_sides(engine: Failing, caplog: pytest.LogCaptureFixture) -> None:
    async def meet(front: RpcFront, channel: Any) -> None:
        await channel.channel_ready()
        for timeout in (0.2, 2, 20):  # a busy machine may take longer to bring the call to the server
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await FabricationServiceStub(channel).GetModel(pb.GetModelRequest(name="m"), timeout=timeout)
            assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
            if engine.asked:
                break
        while not engine.observer.ended:  # type: ignore[attr-defined]
            await asyncio.sleep(0.01)

    run(engine, meet)
    # which of the two is for test_calls.py to say: on a busy machine the client may be first by any time
    ended = {("grpc", "get_model", code) for code in ("deadline_exceeded", "cancelled")}
    assert set(engine.observer.ended) <= ended  # type: ignore[attr-defined]
    assert_nothing_failed(caplog)


def test_a_client_that_goes_away_is_no_error(engine: Failing, caplog: pytest.LogCaptureFixture) -> None:
    async def meet(front: RpcFront, channel: Any) -> None:
        stream = FabricationServiceStub(channel).Fabricate(ENDLESS)
        await stream.read()
        stream.cancel()
        while not engine.observer.ended:  # type: ignore[attr-defined]
            await asyncio.sleep(0.01)

    run(engine, meet)
    assert engine.observer.ended == [("grpc", "fabricate", "cancelled")]  # type: ignore[attr-defined]
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_cancelling_at_any_moment_is_no_error(engine: Failing, caplog: pytest.LogCaptureFixture) -> None:
    """Also while a chunk is written, which then fails before the handler is cancelled."""

    def cancel_often(port: int, seed: int) -> None:
        chance = random.Random(seed)
        with stub_of(f"127.0.0.1:{port}") as stub:
            for _ in range(100):
                stream = stub.Fabricate(chance.choice([ENDLESS, REQUEST, pb.FabricateRequest(model="nope")]))
                with suppress(grpc.RpcError):
                    list(islice(stream, chance.choice([0, 1, 5])))
                time.sleep(chance.choice([0, chance.random() / 200]))
                stream.cancel()

    async def meet(front: RpcFront, channel: Any) -> None:
        await asyncio.gather(*(asyncio.to_thread(cancel_often, front.port, seed) for seed in range(8)))

    run(engine, meet)
    assert {code for _, _, code in engine.observer.ended} <= {"ok", "cancelled", "model_not_found", "invalid_request"}  # type: ignore[attr-defined]
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_stream_that_runs_does_not_keep_its_message(engine: Failing) -> None:
    """What it keeps is the one copy of the w's in it."""
    count = 8 << 20
    w_file = safetensors.write({}, {"t": np.ones(count, np.float32)})
    tensor = pb.TensorSpec(name="t", shape=[count], identity=pb.Identity())
    message = pb.FabricateRequest(spec=pb.ModelSpec(tensors=[tensor]), w_safetensors=w_file).SerializeToString()

    async def meet(front: RpcFront, channel: Any) -> int:
        tracemalloc.start()
        stream = channel.unary_stream(f"/{SERVICE}/Fabricate")(message)
        try:
            await stream.read()
            return tracemalloc.get_traced_memory()[0]
        finally:
            stream.cancel()
            tracemalloc.stop()

    kept = run(engine, meet)
    assert 1 <= kept / len(w_file) < 1.6


def test_a_reply_that_is_given_up_as_it_begins_ends_for_its_client_too(
    engine: Failing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Time is up while gRPC is still at the reply's first metadata: met on a machine that had no time for either."""
    write = service._Reply.write

    async def no_time(reply: Any, tile: memoryview) -> None:
        try:
            async with asyncio.timeout(0):  # over at once, and gRPC needs its own thread
                await write(reply, tile)
        except TimeoutError:
            raise errors.DeadlineExceeded("not one tile was taken", code="reader_stalled") from None

    async def meet(front: RpcFront, channel: Any) -> Any:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await FabricationServiceStub(channel).Fabricate(REQUEST, timeout=40).read()
        return read_failure(caught.value)

    monkeypatch.setattr(service._Reply, "write", no_time)
    assert run(engine, meet).reason == "reader_stalled"


def test_a_port_that_is_taken_is_told(engine: Failing) -> None:
    async def bind(port: int) -> None:
        await RpcFront(engine, Settings(grpc_port=port)).start()

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(errors.Unavailable, match=rf"cannot listen on 127\.0\.0\.1:{port}") as caught:
            asyncio.run(bind(port))
    assert caught.value.code == "port_unavailable"


def test_a_port_is_shared_only_where_it_is_asked_for(engine: Failing) -> None:
    async def both(shared: bool) -> int:
        first = RpcFront(engine, Settings(grpc_port=0), shared_port=shared)
        await first.start()
        second = RpcFront(engine, Settings(grpc_port=first.port), shared_port=shared)
        try:
            await second.start()
            await second.stop(0)
        finally:
            await first.stop(0)
        return second.port - first.port

    assert asyncio.run(both(shared=True)) == 0
    with pytest.raises(errors.Unavailable):
        asyncio.run(both(shared=False))


async def health_of(channel: Any, service: str) -> int:
    reply = await HealthStub(channel).Check(HealthCheckRequest(service=service))
    status: int = reply.status
    return status


@pytest.mark.parametrize("service", ["", SERVICE])
def test_health_follows_the_engine(engine: Failing, service: str, caplog: pytest.LogCaptureFixture) -> None:
    async def meet(front: RpcFront, channel: Any) -> None:
        watch = HealthStub(channel).Watch(HealthCheckRequest(service=service))
        assert (await watch.read()).status == await health_of(channel, service) == SERVING
        for error in (errors.Unavailable("the disk is gone"), ZeroDivisionError("a bug")):
            engine.error = error
            assert (await watch.read()).status == await health_of(channel, service) == NOT_SERVING
            engine.error = None
            assert (await watch.read()).status == SERVING

    run(engine, meet)
    assert "not serving: the disk is gone" in caplog.text
    assert "ZeroDivisionError: a bug" in caplog.text


def test_an_engine_that_is_not_ready_never_seems_so(engine: Failing) -> None:
    async def meet(front: RpcFront, channel: Any) -> int:
        return await health_of(channel, "")

    engine.error = errors.Unavailable("not yet")
    assert run(engine, meet) == NOT_SERVING


def test_a_drained_server_answers_but_is_not_serving(engine: Failing) -> None:
    async def meet(front: RpcFront, channel: Any) -> None:
        watch = HealthStub(channel).Watch(HealthCheckRequest(service=SERVICE))
        assert (await watch.read()).status == SERVING
        front.drain()
        assert (await watch.read()).status == NOT_SERVING
        await asyncio.sleep(0.1)
        assert await health_of(channel, "") == NOT_SERVING, "readiness does not bring it back"
        chunks = [chunk async for chunk in FabricationServiceStub(channel).Fabricate(REQUEST)]
        assert chunks[0].total_size == sum(len(chunk.data) for chunk in chunks)

    run(engine, meet)


def test_a_watch_does_not_keep_a_server_that_stops(engine: Failing) -> None:
    async def meet(front: RpcFront, channel: Any) -> None:
        watch = HealthStub(channel).Watch(HealthCheckRequest())
        assert (await watch.read()).status == SERVING
        await front.stop(3600)
        assert (await watch.read()).status == NOT_SERVING
        assert await watch.read() is grpc.aio.EOF
        assert await watch.code() == grpc.StatusCode.OK

    run(engine, meet)


def test_a_stopping_server_lets_a_call_end_and_cuts_it_after_the_grace(engine: Failing) -> None:
    async def meet(front: RpcFront, channel: Any) -> None:
        stuck = FabricationServiceStub(channel).GetModel(pb.GetModelRequest(name="m"))
        while not engine.asked:
            await asyncio.sleep(0.01)
        await front.stop(0.2)
        assert await stuck.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)

    run(engine, meet)
    assert engine.observer.ended == [("grpc", "get_model", "cancelled")]  # type: ignore[attr-defined]
