"""Ports that are taken before they are needed, and settings that are shared out."""

from __future__ import annotations

import socket

import pytest
from weightloom.engine.limits import available_cores
from weightloom.ports import is_loopback, listen, reserve_port, url_of
from weightloom.settings import Settings


def test_a_port_that_listens_elsewhere_is_named() -> None:
    with reserve_port("127.0.0.1", 0) as listener:
        listener.listen()
        port = listener.getsockname()[1]
        assert url_of(listener, "http") == f"http://127.0.0.1:{port}"
        with pytest.raises(OSError, match=f"cannot listen on 127.0.0.1:{port}: Address already in use"):
            reserve_port("127.0.0.1", port)


def test_an_ipv6_address_has_brackets() -> None:
    if not socket.has_ipv6:
        pytest.skip("no IPv6 here")
    try:
        listener = reserve_port("::1", 0)
    except OSError as error:
        pytest.skip(str(error))
    with listener:
        assert url_of(listener, "https").startswith("https://[::1]:")


def test_of_two_that_reserved_a_port_at_once_one_listens() -> None:
    with reserve_port("127.0.0.1", 0) as one:
        port = one.getsockname()[1]
        with reserve_port("127.0.0.1", port) as other:
            listen(one, 1)
            with pytest.raises(OSError, match=f"cannot listen on 127.0.0.1:{port}: Address already in use"):
                listen(other, 1)
        listen(one, 2)  # as each worker does with the same socket


def test_each_front_has_a_port() -> None:
    with pytest.raises(ValueError, match=r"another grpc_port than port \(8000\)"):
        Settings(port=8000, grpc_port=8000)
    assert Settings(port=0, grpc_port=0).grpc_port == 0


LOOPBACK, OTHERS = ["127.0.0.1", "127.1.2.3", "::1", "localhost"], ["0.0.0.0", "::", "10.0.0.1", "example.org", ""]


@pytest.mark.parametrize("host", LOOPBACK + OTHERS)
def test_which_addresses_are_this_machine_s_alone(host: str) -> None:
    assert is_loopback(host) is (host in LOOPBACK)


def test_a_shared_port_is_open_to_those_that_share_and_to_them_alone() -> None:
    with reserve_port("127.0.0.1", 0, shared=True) as reserved:
        port = reserved.getsockname()[1]
        with socket.socket() as stranger, pytest.raises(OSError, match="Address already in use"):
            stranger.bind(("127.0.0.1", port))
        with socket.create_server(("127.0.0.1", port), reuse_port=True) as one:
            for _ in range(20):  # none of them goes to the socket that only reserves
                with socket.create_connection(("127.0.0.1", port), timeout=10), one.accept()[0]:
                    pass


def test_cores_are_shared_out_unless_threads_are_given() -> None:
    assert Settings(workers=2).for_worker().threads == max(1, available_cores() // 2)
    assert Settings(workers=256).for_worker().threads == max(1, available_cores() // 256)
    assert Settings(workers=2, threads=7).for_worker().threads == 7
    assert Settings().for_worker() == Settings()
