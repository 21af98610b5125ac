"""The client against a real server behind a connection that breaks."""

from __future__ import annotations

import gc
import hashlib
import json
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from io import BytesIO
from typing import Any
from urllib.parse import urlparse

import numpy as np
import pytest
from support.server import Server
from support.streams import bulk, local_hash
from weightloom.fabric import ModelSpec
from weightloom.requests import FabricateRequest, request_to_safetensors
from weightloom_client import Client, ServerError, ServerUnreachable


class CuttingProxy(threading.Thread):
    """Passes connections on to a server, and cuts each of the first ``cuts`` after so many bytes of its reply."""

    def __init__(self, url: str, after: int, cuts: int) -> None:
        super().__init__(daemon=True)
        host, port = urlparse(url).netloc.split(":")
        self.target, self.after, self.cuts, self.connections = (host, int(port)), after, cuts, 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"

    def run(self) -> None:
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            self.connections += 1
            limit = self.after if self.connections <= self.cuts else None
            with suppress(OSError), client, socket.create_connection(self.target) as server:
                self._pass_on(client, server, limit)  # until one of them goes away

    def _pass_on(self, client: socket.socket, server: socket.socket, limit: int | None) -> None:
        server.sendall(_whole_request(client))
        passed = 0
        while data := server.recv(min(65536, limit - passed) if limit is not None else 65536):
            client.sendall(data)
            if (passed := passed + len(data)) == limit:
                return


def _whole_request(client: socket.socket) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data:
        data += _some(client)
    head, _, body = data.partition(b"\r\n\r\n")
    left = int(re.search(rb"(?i)content-length: (\d+)", head)[1]) - len(body)  # type: ignore[index]
    while left > 0:
        data += (more := _some(client))
        left -= len(more)
    return data


def _some(client: socket.socket) -> bytes:
    if not (data := client.recv(65536)):
        raise ConnectionResetError
    return data


@pytest.fixture
def proxy(server: Server, request: pytest.FixtureRequest) -> Iterator[CuttingProxy]:
    made = CuttingProxy(server.url, after=1_000_000, cuts=request.param)
    made.start()
    yield made
    made.listener.close()


def call(request: dict[str, Any]) -> tuple[bytes, dict[str, list[str]]]:
    spec = ModelSpec.from_value({"name": "inline", "seed": request["seed"], "tensors": request["tensors"]})
    w = {name: np.array(values) for name, values in request["w"].items()}
    return request_to_safetensors(FabricateRequest(spec, w))


@pytest.mark.parametrize("proxy", [3], indirect=True)
def test_a_transfer_that_breaks_off_goes_on_at_its_byte(proxy: CuttingProxy) -> None:
    request, file, seen = bulk(1000), BytesIO(), []
    with Client(proxy.url) as client:
        client.fabricate_to(file, *call(request), lambda done, total: seen.append((done, total)))
    assert proxy.connections == 4
    assert hashlib.sha256(file.getvalue()).hexdigest() == local_hash(request)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert {total for _, total in seen} == {len(file.getvalue())}
    assert seen[-1][0] == len(file.getvalue())


@pytest.mark.parametrize("proxy", [2], indirect=True)
def test_a_part_that_breaks_off_goes_on_within_that_part(proxy: CuttingProxy) -> None:
    request, whole, part = bulk(1500), BytesIO(), BytesIO()
    body, options = call(request)
    with Client(proxy.url) as client:
        client.fabricate_to(part, body, options | {"offset": ["1000"], "length": ["5000000"]})
        client.fabricate_to(whole, body, options)
    assert proxy.connections == 4
    assert part.getvalue() == whole.getvalue()[1000:5001000]


@pytest.mark.parametrize("proxy", [99], indirect=True)
def test_a_server_that_answers_no_more_is_an_error(proxy: CuttingProxy) -> None:
    proxy.after = 100  # in the middle of the reply's head
    with (
        Client(proxy.url, tries=2) as client,
        pytest.raises(ServerUnreachable, match="2 times on end"),
    ):
        client.fabricate_to(BytesIO(), *call(bulk(2000)))
    gc.collect()  # a connection that was left open would be told now


def test_a_file_that_cannot_be_written_leaves_no_connection_open(server: Server) -> None:
    class Full(BytesIO):
        def write(self, data: Any, /) -> int:
            raise OSError(28, "No space left on device")

    with Client(server.url) as client, pytest.raises(OSError, match="No space left"):
        client.fabricate_to(Full(), *call(bulk(2000)))
    gc.collect()


def test_the_servers_errors_keep_their_code_and_fields(server: Server) -> None:
    with Client(server.url) as client:
        with pytest.raises(ServerError) as missing:
            client.get_model("nope/nope")
        body, options = call(bulk(8))
        with pytest.raises(ServerError) as wrong:
            client.fabricate_to(BytesIO(), body, options | {"rows": ["t=0:9"]})
    assert (missing.value.status, missing.value.code) == (404, "model_not_found")
    assert wrong.value.errors[0]["field"] == "rows['t']"


def test_models_are_listed_over_all_pages(server: Server) -> None:
    with Client(server.url) as client:
        names = [f"client/{number:03}" for number in range(120)]
        for name in names:
            client.create_model(json.dumps({"name": name, "seed": 1, "tensors": bulk(2)["tensors"]}).encode())
        listed = [model["name"] for model in client.list_models()]
        for name in names:
            client.delete_model(name)
    assert [name for name in listed if name.startswith("client/")] == names
