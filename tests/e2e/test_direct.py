"""Large files through a balancer, straight from the replicas that it names; and from it where that does not work."""

from __future__ import annotations

import asyncio
import hashlib
import json
import ssl
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import requests
import trustme
import urllib3
from support.balancer import balancer_of, direct_server
from support.foreign import other_server
from support.proxy import cut, delay, proxy_to
from support.server import Server, running_server
from support.streams import BareClient, bulk, local_hash
from weightloom_client import AsyncClient, Client, RetryPolicy, ServerBusy, ServerUnreachable, Tls
from weightloom_client.stripes import STRIPE
from weightloom_client.transports.direct import Direct

LARGE = bulk(4000)  # 64 MB
SIZE = 64_000_000
LITTLE = 100_000  # that a balancer passes on where the file itself does not come through it
QUICK = RetryPolicy(first_pause=0.01)


def split(request: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    return {"name": "inline"} | {key: request[key] for key in ("seed", "tensors")}, request["w"]


def hash_by(client: Client, request: dict[str, Any] = LARGE) -> str:
    file = BytesIO()
    client.fabricate_to(file, *split(request))
    return hashlib.sha256(file.getvalue()).hexdigest()


def nowhere() -> str:
    """An address at which nobody answers."""
    return "http://127.0.0.1:1"


@pytest.fixture
def one(tmp_path: Path) -> Iterator[Server]:
    with direct_server(tmp_path / "one") as server:
        yield server


@pytest.fixture
def two(tmp_path: Path) -> Iterator[Server]:
    with direct_server(tmp_path / "two") as server:
        yield server


@pytest.fixture
def lost(tmp_path: Path) -> Iterator[Server]:
    """A server that is wrong about its address."""
    with running_server(tmp_path / "lost", direct_url=nowhere(), direct_bytes=1_000_000) as server:
        yield server


def test_a_large_file_does_not_come_through_the_balancer(one: Server, tmp_path: Path) -> None:
    target = tmp_path / "t.safetensors"
    with balancer_of(one.url) as balancer, Client(balancer.url) as client:
        client.download(*split(LARGE), target, verify="full")
        assert balancer.bytes < LITTLE
        assert client.fabricate(*split(bulk(300)))["t"].shape == (300, 300), "small ones come through it"
        assert LITTLE < balancer.bytes < SIZE
    assert hashlib.sha256(target.read_bytes()).hexdigest() == local_hash(LARGE)


def test_asyncio_and_the_command_line_take_the_same_way(one: Server, tmp_path: Path) -> None:
    async def main(url: str) -> bytes:
        async with AsyncClient(url) as client:
            return (await client.fabricate(*split(LARGE)))["t"].tobytes()

    request, target = tmp_path / "request.json", tmp_path / "t.safetensors"
    request.write_text(json.dumps(LARGE))
    with balancer_of(one.url) as balancer:
        data = asyncio.run(main(balancer.url))
        command = [sys.executable, "-m", "weightloom", "fabricate", str(request), "-o", str(target)]
        subprocess.run([*command, "--url", balancer.url], check=True, capture_output=True)
        assert balancer.bytes < LITTLE
    assert target.read_bytes().endswith(data)


@pytest.mark.parametrize("streams", [1, 3])
def test_a_replica_killed_in_mid_file_is_replaced_by_another_one(
    one: Server, two: Server, tmp_path: Path, streams: int
) -> None:
    """Which one sends the first stream is the balancer's to say, so either may have to die."""
    target = tmp_path / "t.safetensors"

    def kill(done: int, total: int) -> None:
        if done > 10_000_000 and one.process.poll() is None:
            one.kill()

    with balancer_of(one.url, two.url) as balancer, Client(balancer.url, retries=QUICK, streams=streams) as client:
        client.download(*split(LARGE), target, progress=kill, verify="full")
        lost = (streams - 1) * STRIPE  # sent by the balancer to who was on the way to the replica as it died
        assert balancer.bytes < LITTLE + lost, "the rest comes straight from the other one"
    assert one.process.poll() is not None
    assert hashlib.sha256(target.read_bytes()).hexdigest() == local_hash(LARGE)


@pytest.mark.parametrize("by_stream", [False, True], ids=["in-turn", "by-hash"])
def test_one_address_is_enough_to_get_a_file_from_several_replicas(
    one: Server, two: Server, tmp_path: Path, by_stream: bool
) -> None:
    def sent(server: Server) -> int:
        lines = server.request("GET", "/metrics").data.decode().splitlines()
        (line,) = (line for line in lines if line.startswith('weightloom_sent_bytes_total{front="rest"}'))
        return int(float(line.split()[1]))

    with balancer_of(one.url, two.url, by_stream=by_stream) as balancer, Client(balancer.url, streams=4) as client:
        client.download(*split(LARGE), tmp_path / "t", verify="full")
        arrays = client.fabricate(*split(LARGE), verify="full")
        assert balancer.bytes < LITTLE
    assert hashlib.sha256((tmp_path / "t").read_bytes()).hexdigest() == local_hash(LARGE)
    assert (tmp_path / "t").read_bytes().endswith(arrays["t"].tobytes())
    assert min(sent(one), sent(two)) > 10_000_000


def test_an_address_that_cannot_be_reached_is_passed_by(lost: Server) -> None:
    with balancer_of(lost.url) as balancer, Client(balancer.url, retries=RetryPolicy(tries=1)) as client:
        assert hash_by(client) == local_hash(LARGE)
        assert balancer.bytes > SIZE


@pytest.mark.parametrize(
    ("status", "headers", "body"),
    [
        (404, {}, b"no such page"),
        (200, {}, b"<html>"),
        (200, {"ETag": '"5f3e"'}, b"<html>"),
        (200, {"ETag": '"5f3e"', "Content-Length": "many"}, b"<html>"),
        (307, {"Location": "http://127.0.0.1:1/"}, b"further"),
        (501, {}, b"Unsupported method ('POST')"),
        (503, {"Retry-After": "30"}, b"no healthy upstream"),
    ],
    ids=["refuses", "another-service", "another-file", "no-length", "second-hop", "no-post", "gateway"],
)
def test_an_address_of_somebody_else_is_passed_by(
    tmp_path: Path, status: int, headers: dict[str, str], body: bytes
) -> None:
    with (
        other_server(status, headers, body) as other,
        running_server(tmp_path / "data", direct_url=other, direct_bytes=1_000_000) as server,
        Client(server.url, retries=RetryPolicy(tries=1)) as client,
    ):
        assert hash_by(client) == local_hash(LARGE)


def test_a_name_that_no_host_can_have_is_passed_by(tmp_path: Path) -> None:
    """The setting is checked for its form, no more."""
    with (
        running_server(tmp_path / "data", direct_url="http://wl..example:8000", direct_bytes=1_000_000) as server,
        Client(server.url, retries=RetryPolicy(tries=1)) as client,
    ):
        assert hash_by(client) == local_hash(LARGE)


def test_a_way_that_breaks_off_is_left_for_the_balancer(tmp_path: Path, server: Server) -> None:
    """As one where large packets get lost: what has come stays, the rest comes through the balancer."""
    with (
        proxy_to(server.url, cut(20_000_000), faults=99) as narrow,
        running_server(tmp_path / "data", direct_url=narrow.url, direct_bytes=1_000_000) as replica,
        balancer_of(replica.url) as balancer,
        Client(balancer.url, retries=QUICK) as client,
    ):
        assert hash_by(client) == local_hash(LARGE)
        assert narrow.connections == 1
        assert SIZE - 20_000_000 <= balancer.bytes < SIZE


def test_a_client_that_cannot_reach_replicas_says_so(one: Server) -> None:
    with balancer_of(one.url) as balancer, Client(balancer.url, direct="off") as client:
        assert hash_by(client) == local_hash(LARGE)
        assert balancer.bytes > SIZE


def test_who_asks_the_replica_itself_is_not_sent_anywhere(one: Server) -> None:
    with proxy_to(one.url, delay(0)) as watched, Client([one.url, watched.url]) as client:
        assert client.fabricate(*split(LARGE), verify="full")["t"].shape == (4000, 4000)
    code = 'weightloom_requests_total{call="fabricate",code="redirected",front="rest"}'
    metrics = one.request("GET", "/metrics").data.decode()
    assert code in metrics, "the one behind another address was"
    assert 'code="ok",front="rest"} ' in metrics


def test_errors_name_the_address_that_they_come_from(one: Server) -> None:
    def kill(done: int, total: int) -> None:
        if one.process.poll() is None:
            one.kill()

    with (
        balancer_of(one.url) as balancer,
        Client(balancer.url, retries=RetryPolicy(tries=1)) as client,
        pytest.raises(ServerUnreachable, match=one.url),
    ):
        client.fabricate(*split(LARGE), progress=kill)


def test_a_full_replica_is_no_reason_to_take_the_way_through_the_balancer(tmp_path: Path) -> None:
    with (
        direct_server(tmp_path / "data", max_streams=1, max_queued=0) as server,
        BareClient(server.url, bulk(1 << 14), host=server.url.removeprefix("http://")) as reader,
        balancer_of(server.url) as balancer,
        Client(balancer.url, retries=RetryPolicy(tries=1)) as client,
    ):
        next(reader.read())
        with pytest.raises(ServerBusy, match="too_many_requests") as told:
            client.fabricate(*split(LARGE))
        assert any(server.url in note for note in told.value.__notes__)
        assert balancer.bytes < LITTLE


def test_grpc_streams_of_one_address_share_a_file_too(one: Server) -> None:
    with Client(f"grpc://{one.grpc_target}", streams=3) as client:
        assert client.fabricate(*split(LARGE), verify="full")["t"].shape == (4000, 4000)


def test_clients_of_other_kinds_follow(one: Server) -> None:
    """The same POST again: 307 keeps method and body."""
    body, header = json.dumps(LARGE), {"Content-Type": "application/json"}
    expected = local_hash(LARGE)
    with balancer_of(one.url) as balancer:
        where = f"{balancer.url}/fabricate"
        assert hashlib.sha256(requests.post(where, body, headers=header, timeout=60).content).hexdigest() == expected
        by_urllib3 = urllib3.request("POST", where, body=body, headers=header, timeout=60)
        assert hashlib.sha256(by_urllib3.data).hexdigest() == expected
        told = requests.post(where, body, headers=header, timeout=60, allow_redirects=False)
        assert (told.status_code, told.json()["code"]) == (307, "redirected")
        declined = requests.post(where, body, headers=header | {"X-Weightloom-Direct": "no"}, timeout=60)
        assert hashlib.sha256(declined.content).hexdigest() == expected
        assert SIZE < balancer.bytes < SIZE + LITTLE


@dataclass
class Pem:
    """A certificate for 127.0.0.1: its files, whom to trust, and how a balancer shows it."""

    settings: dict[str, Path]
    trust: Tls
    context: ssl.SSLContext


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> Pem:
    folder, authority = tmp_path_factory.mktemp("pem"), trustme.CA()
    issued, context = authority.issue_cert("127.0.0.1"), ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.cert_pem.write_to_path(folder / "ca.pem")
    issued.private_key_pem.write_to_path(folder / "key.pem")
    issued.cert_chain_pems[0].write_to_path(folder / "cert.pem")
    issued.configure_cert(context)
    return Pem({"tls_cert": folder / "cert.pem", "tls_key": folder / "key.pem"}, Tls(folder / "ca.pem"), context)


@pytest.mark.parametrize(("direct", "is_direct"), [("follow", False), ("insecure", True)])
def test_nobody_is_led_from_https_to_http_who_has_not_agreed(
    one: Server, pem: Pem, direct: Direct, is_direct: bool
) -> None:
    with (
        balancer_of(one.url, tls=pem.context) as balancer,
        Client(balancer.url, tls=pem.trust, direct=direct) as client,
    ):
        assert hash_by(client) == local_hash(LARGE)
        assert (balancer.bytes < LITTLE) == is_direct


def test_a_key_is_never_sent_from_https_to_http(pem: Pem, tmp_path: Path) -> None:
    """The replica refuses who comes without, and the balancer sends the file."""
    key = make_key(tmp_path / "data")
    with (
        direct_server(tmp_path / "data") as server,
        balancer_of(server.url, tls=pem.context) as balancer,
        Client(balancer.url, api_key=key, tls=pem.trust, direct="insecure") as client,
    ):
        assert hash_by(client) == local_hash(LARGE)
        assert balancer.bytes > SIZE
        header = {"Authorization": f"Bearer {key}"}
        metrics = requests.get(f"{server.url}/metrics", headers=header, timeout=60).text
    assert 'weightloom_requests_total{call="fabricate",code="key_missing",front="rest"} 1.0' in metrics


def test_from_https_to_https_it_goes_along(pem: Pem, tmp_path: Path) -> None:
    key, http = make_key(tmp_path / "data"), urllib3.PoolManager(ca_certs=str(pem.trust.ca))
    with (
        direct_server(tmp_path / "data", "https", http=http, **pem.settings) as server,
        balancer_of(server.url, tls=pem.context) as balancer,
        Client(balancer.url, api_key=key, tls=pem.trust) as client,
    ):
        assert hash_by(client) == local_hash(LARGE)
        assert balancer.bytes < LITTLE


def make_key(data_dir: Path) -> str:
    command = [sys.executable, "-m", "weightloom", "keys", "create", "k", "--data-dir", str(data_dir)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_a_key_goes_along_with_the_client_and_others_are_answered_at_once(tmp_path: Path) -> None:
    """Most clients drop a key when they are sent to another host, and would be refused there."""
    key = make_key(tmp_path / "data")
    with direct_server(tmp_path / "data", workers=2) as server, balancer_of(server.url) as balancer:
        with Client(balancer.url, api_key=key) as client:
            assert hash_by(client) == local_hash(LARGE)
            assert balancer.bytes < LITTLE
        header = {"Content-Type": "application/json", "Authorization": f"Bearer {key}"}
        plain = requests.post(f"{balancer.url}/fabricate", json.dumps(LARGE), headers=header, timeout=60)
        assert hashlib.sha256(plain.content).hexdigest() == local_hash(LARGE)
        assert balancer.bytes > SIZE
