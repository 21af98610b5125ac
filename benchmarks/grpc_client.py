"""gRPC clients as fast as Python has them: grpcio, and replies are not parsed. For ``client_process``."""

from __future__ import annotations

import asyncio
import time

import grpc
import grpc.aio
from client import Download
from common import random_w
from load import Load
from weightloom_proto.v1 import fabrication_pb2 as pb

__all__ = ["grpc_download", "grpc_hammer", "grpc_message"]

METHOD = "/weightloom.v1.FabricationService/Fabricate"


def grpc_message(model: str, seed: int = 0) -> bytes:
    """A FabricateRequest for the whole of a registered model of ``one_tensor``; another seed is another w."""
    return bytes(pb.FabricateRequest(model=model, w={"x": pb.Vector(values=random_w(seed))}).SerializeToString())


def grpc_download(port: int, message: bytes, host: str = "127.0.0.1") -> Download:
    """Receive a whole stream over a new channel, and throw it away."""
    began, began_cpu = time.perf_counter(), time.process_time()
    with grpc.insecure_channel(f"{host}:{port}", [("grpc.max_receive_message_length", -1)]) as channel:
        size = sum(map(len, channel.unary_stream(METHOD)(message)))  # without a deserializer, replies are bytes
    return Download(size, time.perf_counter() - began, time.process_time() - began_cpu)


def grpc_hammer(port: int, message: bytes, calls: int, seconds: float) -> Load:
    """Send the request over and over, ``calls`` at the same time on one channel."""
    return asyncio.run(_hammer(port, message, calls, seconds))


async def _hammer(port: int, message: bytes, calls: int, seconds: float) -> Load:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        fabricate = channel.unary_stream(METHOD)
        began, began_cpu = time.perf_counter(), time.process_time()

        async def caller() -> int:
            count = 0
            while time.perf_counter() - began < seconds:
                async for _ in fabricate(message):
                    pass
                count += 1
            return count

        answers = sum(await asyncio.gather(*(caller() for _ in range(calls))))
        elapsed = time.perf_counter() - began
        return Load(answers / elapsed, (time.process_time() - began_cpu) / elapsed)
