"""The client against a real server behind a connection that misbehaves."""

from __future__ import annotations

import gc
import hashlib
import json
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.foreign import other_server
from support.proxy import Fault, cut, delay, flip, proxy_to, reset, stall
from support.server import Server
from support.streams import bulk, local_hash
from weightloom_client import (
    Client,
    ModelConflict,
    ModelNotFound,
    RequestRejected,
    RetryPolicy,
    ServerUnreachable,
    Timeouts,
    WrongBits,
)

QUICK = RetryPolicy(tries=3, first_pause=0.01)


def split(request: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """A request of ``bulk`` as spec and w."""
    return {"name": "inline"} | {key: request[key] for key in ("seed", "tensors")}, request["w"]


def file_of(client: Client, request: dict[str, Any], **options: Any) -> bytes:
    file = BytesIO()
    client.fabricate_to(file, *split(request), **options)
    return file.getvalue()


@pytest.mark.parametrize("fault", [cut(1_000_000), reset(1_000_000), stall(1_000_000)], ids=["cut", "reset", "stall"])
def test_a_transfer_that_breaks_off_goes_on_at_its_byte(server: Server, fault: Fault) -> None:
    request = bulk(1000)
    seen: list[tuple[int, int]] = []
    with (
        proxy_to(server.url, fault, faults=3) as proxy,
        Client(proxy.url, retries=QUICK, timeouts=Timeouts(read=3)) as client,
    ):
        data = file_of(client, request, progress=lambda done, total: seen.append((done, total)))
    assert proxy.connections == 4
    assert hashlib.sha256(data).hexdigest() == local_hash(request)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert {total for _, total in seen} == {len(data)}
    assert seen[-1][0] == len(data)


def test_arrays_and_files_are_whole_over_a_connection_that_breaks(server: Server, tmp_path: Path) -> None:
    request = bulk(1000)
    with proxy_to(server.url, cut(1_500_000), faults=9) as proxy, Client(proxy.url, retries=QUICK) as client:
        arrays = client.fabricate(*split(request), verify="full")
        client.download(*split(request), tmp_path / "t.safetensors", verify="full")
        tensors = dict(client.iter_tensors(*split(request), verify="full"))
    data = (tmp_path / "t.safetensors").read_bytes()
    assert hashlib.sha256(data).hexdigest() == local_hash(request)
    assert data.endswith(arrays["t"].tobytes())
    assert np.array_equal(arrays["t"], tensors["t"])


def test_a_slow_connection_is_not_taken_for_a_broken_one(server: Server) -> None:
    request = bulk(200)
    with proxy_to(server.url, delay(0.3)) as proxy, Client(proxy.url, timeouts=Timeouts(read=5)) as client:
        assert hashlib.sha256(file_of(client, request)).hexdigest() == local_hash(request)
    assert proxy.connections == 1


def test_a_server_that_answers_no_more_is_an_error(server: Server) -> None:
    with (
        proxy_to(server.url, cut(100), faults=99) as proxy,  # in the middle of the reply's head
        Client(proxy.url, retries=QUICK) as client,
        pytest.raises(ServerUnreachable, match="3 tries on end failed"),
    ):
        client.fabricate(*split(bulk(2000)))
    gc.collect()  # a connection that was left open would be told now


def test_nobody_at_the_address_is_an_error_that_names_it() -> None:
    for url in ("http://127.0.0.1:1", "grpc://127.0.0.1:1"):
        with Client(url, retries=QUICK) as client, pytest.raises(ServerUnreachable, match="3 tries on end failed"):
            client.get_model("x")


@pytest.mark.parametrize("at", [20, 5000, 2_000_000])
def test_a_lie_is_caught_where_everything_is_verified(server: Server, tmp_path: Path, at: int) -> None:
    """``at`` counts from the reply's first byte: a bit of its head is no lie about weights, so it is left alone."""
    request, place = bulk(1000), at + 1000
    with proxy_to(server.url, flip(place), faults=99) as proxy, Client(proxy.url, verify="full") as client:
        with pytest.raises(WrongBits, match=r"byte|header|safetensors"):
            client.fabricate(*split(request))
        with pytest.raises(WrongBits):
            client.download(*split(request), tmp_path / "t")
        with pytest.raises(WrongBits):
            list(client.iter_tensors(*split(request)))
    assert list(tmp_path.iterdir()) == [], "what is wrong does not stay"


def test_a_sample_finds_the_weights_of_another_seed(server: Server) -> None:
    """As a server would give them that draws its factors in another way."""
    name = "client/liar"
    with Client(server.url) as client:
        client.create_model(split(bulk(300, seed=1))[0] | {"name": name})
        honest = client.get_spec(name)
        liar = honest.model_copy(update={"seed": 2})
        client._specs[honest.digest] = liar
        with pytest.raises(WrongBits):
            client.fabricate(name, bulk(300)["w"])
        client.delete_model(name)


def test_a_file_that_cannot_be_written_leaves_no_connection_open(server: Server) -> None:
    class Full(BytesIO):
        def write(self, data: Any, /) -> int:
            raise OSError(28, "No space left on device")

    with Client(server.url) as client, pytest.raises(OSError, match="No space left"):
        client.fabricate_to(Full(), *split(bulk(2000)))
    gc.collect()


@pytest.fixture(params=["rest", "grpc", "local"])
def client(request: pytest.FixtureRequest, server: Server) -> Iterator[Client]:
    """A client over each transport."""
    made = {
        "rest": lambda: Client(server.url),
        "grpc": lambda: Client(f"grpc://{server.grpc_target}"),
        "local": Client.local,
    }
    with made[request.param]() as client:
        yield client


def test_errors_say_what_to_do_next_whatever_the_transport(client: Client) -> None:
    spec, w = split(bulk(8))
    with pytest.raises(ModelNotFound) as missing:
        client.get_model("nope/nope")
    assert (missing.value.status, missing.value.code) == (404, "model_not_found")
    with pytest.raises(RequestRejected) as wrong:
        client.fabricate(spec, w, rows={"t": (0, 9)})
    assert (wrong.value.status, wrong.value.code) == (422, "rows_out_of_range")
    assert wrong.value.errors == [{"field": "rows['t']", "got": "[0, 9]", "expected": "[a, b] with 0 <= a < b <= 8"}]
    client.create_model(spec | {"name": "client/taken"})
    with pytest.raises(ModelConflict):
        client.create_model(spec | {"name": "client/taken", "seed": 99})
    client.delete_model("client/taken")
    with pytest.raises(ModelNotFound):
        client.delete_model("client/taken")


def test_a_model_whose_deletion_was_answered_into_the_void_is_deleted(server: Server) -> None:
    with Client(server.url) as client:
        client.create_model(split(bulk(4))[0] | {"name": "client/lost"})
    with proxy_to(server.url, cut(10)) as proxy, Client(proxy.url, retries=QUICK) as client:
        client.delete_model("client/lost")
        assert proxy.connections == 2
        with pytest.raises(ModelNotFound):
            client.delete_model("client/lost")


def test_a_redirect_is_told_with_where_it_leads() -> None:
    with other_server(301, {"Location": "https://elsewhere/"}, b"moved") as url, Client(url) as client:
        for call in (lambda: client.get_model("m"), lambda: client.fabricate(*split(bulk(4)))):
            with pytest.raises(RequestRejected, match=r"301 .*redirected to https://elsewhere/: moved"):
                call()


def test_a_server_of_another_kind_is_no_weightloom() -> None:
    with other_server(200, {}, b"<html>welcome</html>") as url, Client(url, retries=QUICK) as client:
        for call in (lambda: client.get_model("m"), lambda: client.fabricate(*split(bulk(4)))):
            with pytest.raises(ServerUnreachable, match="none of weightloom's"):
                call()


def test_errors_carry_the_id_under_which_the_server_logs_them(server: Server) -> None:
    for url in (server.url, f"grpc://{server.grpc_target}"):
        with Client(url) as client, pytest.raises(ModelNotFound) as missing:
            client.get_model("nope/nope")
        assert missing.value.request_id
        assert missing.value.request_id in str(missing.value)


def test_a_model_is_shown_alike_whatever_the_transport(client: Client, server: Server) -> None:
    spec = {"name": "client/shown", "seed": (1 << 64) - 1, "tensors": bulk(4)["tensors"]}
    spec["tensors"] = [*spec["tensors"], {"name": "one", "shape": [2, 2], "kind": "constant", "value": "eye"}]
    shown = client.create_model(spec)
    assert client.get_model(shown["digest"])["digest"] == shown["digest"]
    assert client.set_residency("client/shown", "auto")["name"] == "client/shown"
    with Client(server.url) as rest:
        expected = rest.create_model(spec)
        rest.delete_model("client/shown")
    for known in (shown, expected):
        for key in ("created_at", "residency", "resident_bytes", "t_bytes"):
            known.pop(key, None)
    assert shown == expected


def test_models_are_listed_over_all_pages(client: Client) -> None:
    names = [f"client/{number:03}" for number in range(120)]
    for name in names:
        client.create_model(json.dumps({"name": name, "seed": 1, "tensors": bulk(2)["tensors"]}))
    listed = [model["name"] for model in client.list_models()]
    for name in names:
        client.delete_model(name)
    assert [name for name in listed if name.startswith("client/")] == names


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"urls": "ftp://x"}, "expected http://"),
        ({"urls": []}, "expected at least one"),
        ({"urls": "grpc://x"}, "expected grpc://host:port"),
        ({"urls": "http://x", "verify": "maybe"}, "expected one of sample, full, off"),
    ],
)
def test_wrong_arguments_are_told_at_once(arguments: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        Client(**arguments)


def test_wrong_options_are_told_before_anything_is_sent() -> None:
    with Client("http://127.0.0.1:1") as client:
        with pytest.raises(TypeError, match="got the option 'row'"):
            client.fabricate("x", {}, row={"t": (0, 1)})  # type: ignore[call-arg]
        with pytest.raises(TypeError, match="expected a collection of names"):
            client.fabricate("x", {}, tensors="t")
