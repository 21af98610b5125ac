"""A file on disk is the right one, whole, or not there; what stopped goes on, whatever it left behind."""

from __future__ import annotations

import errno
import hashlib
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from support.proxy import cut, delay, proxy_to, stall
from support.server import Server
from support.streams import bulk, local_hash
from weightloom_client import Client, RetryPolicy, ServerUnreachable, Timeouts, partfile
from weightloom_client.partfile import PartFile

SMALL, LARGE = bulk(500), bulk(3500)  # 1 MB; 49 MB, in stripes where there are replicas
MODEL, W = {"name": "inline"} | {key: SMALL[key] for key in ("seed", "tensors")}, SMALL["w"]
LARGE_MODEL = MODEL | {"tensors": LARGE["tensors"]}
SMALL_HASH, LARGE_HASH = local_hash(SMALL), local_hash(LARGE)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    with Client(server.url) as client:
        yield client


@pytest.fixture
def etag(client: Client, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Of the small file, without its quotes."""
    return client.download(MODEL, W, tmp_path_factory.mktemp("other") / "f").strip('"')


def truth(folder: Path) -> bytes:
    with Client.local() as client:
        client.download(LARGE_MODEL, W, folder / "truth")
    return (folder / "truth").read_bytes()


@pytest.mark.parametrize("after", [9_000_000, 20_000_000, 33_000_000])
def test_what_a_stopped_striped_download_keeps_is_the_files_beginning(
    server: Server, tmp_path: Path, after: int
) -> None:
    whole, target = truth(tmp_path), tmp_path / "f"

    def stop(done: int, total: int) -> None:
        if done > after and threading.current_thread() is threading.main_thread():
            raise KeyboardInterrupt

    with Client([server.url, server.url]) as client:
        with pytest.raises(KeyboardInterrupt):
            client.download(LARGE_MODEL, W, target, progress=stop)
        (part,) = tmp_path.glob(".f.*")
        kept = part.read_bytes()
        assert part.name.endswith(".part")
        assert 0 < len(kept) < len(whole)
        assert kept == whole[: len(kept)]
        client.download(LARGE_MODEL, W, target)
    assert target.read_bytes() == whole


def test_a_striped_download_whose_replicas_die_keeps_the_files_beginning(server: Server, tmp_path: Path) -> None:
    whole, target = truth(tmp_path), tmp_path / "f"
    with proxy_to(server.url, cut(7_000_000), faults=99) as dying:

        def die(done: int, total: int) -> None:
            dying.listener.close()

        urls = [dying.url, "http://127.0.0.1:1"]
        with (
            Client(urls, retries=RetryPolicy(tries=2, first_pause=0.01)) as client,
            pytest.raises(ServerUnreachable),
        ):
            client.download(LARGE_MODEL, W, target, progress=die)
    (part,) = tmp_path.glob(".f.*.part")
    assert part.read_bytes() == whole[: part.stat().st_size]


@pytest.mark.parametrize("fault", [stall(1), stall(2_000_000), delay(1)], ids=["silent", "stalled", "slow"])
def test_a_replica_that_hardly_sends_holds_nobody_up(server: Server, tmp_path: Path, fault: Any) -> None:
    """Without a takeover this would wait for the read time-out, longer than a test may last."""
    with (
        proxy_to(server.url, fault, faults=9) as slow,
        Client([server.url, slow.url], timeouts=Timeouts(read=3000)) as client,
    ):
        client.download(LARGE_MODEL, W, tmp_path / "f", verify="full")
        assert slow.connections >= 1
        arrays = client.fabricate(LARGE_MODEL, W, verify="full")
    assert sha256(tmp_path / "f") == LARGE_HASH
    assert (tmp_path / "f").read_bytes().endswith(arrays["t"].tobytes())


def test_a_stop_does_not_wait_for_a_replica_that_stalls(server: Server, tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        if done > 12_000_000:
            raise KeyboardInterrupt

    with (
        proxy_to(server.url, stall(2_000_000), faults=9) as stalled,
        Client([server.url, stalled.url], timeouts=Timeouts(read=3000)) as client,
        pytest.raises(KeyboardInterrupt),
    ):
        client.download(LARGE_MODEL, W, tmp_path / "f", progress=stop)


def damaged(content: bytes) -> Callable[[Path, str], None]:
    return lambda folder, etag: (folder / f".f.{etag}.part").write_bytes(content) and None


LEFT: dict[str, Callable[[Path, str], Any]] = {
    "an empty part": damaged(b""),
    "a part with no whole header": damaged(b"\x88\0\0\0\0\0\0\0{"),
    "a part whose header is damaged": damaged(b"\x10\0\0\0\0\0\0\0" + b"no JSON at all, no"),
    "a part that is too long": lambda folder, etag: _too_long(folder / f".f.{etag}.part"),
    "a part of another file": lambda folder, etag: (folder / ".f.wl1-0.part").write_bytes(b"\x02\0\0\0\0\0\0\0{}"),
    "a part of a neighbour with an odd name": lambda folder, etag: (folder / ".f.é☃.part").write_bytes(b"?"),
    "holes of a killed program": lambda folder, etag: (folder / f".f.{etag}.part.00000000.holes").write_bytes(b"?"),
}
STAYS = {"a part of another file", "a part of a neighbour with an odd name"}


def _too_long(part: Path) -> None:
    with Client.local() as client:
        client.download(MODEL, W, part)
    with part.open("ab") as file:
        file.write(b"more")


@pytest.mark.parametrize("left", LEFT)
def test_nothing_that_was_left_behind_is_in_the_way(client: Client, tmp_path: Path, etag: str, left: str) -> None:
    LEFT[left](tmp_path, etag)
    client.download(MODEL, W, tmp_path / "f")
    assert sha256(tmp_path / "f") == SMALL_HASH
    assert len(list(tmp_path.iterdir())) == 1 + (left in STAYS)


def test_what_cannot_be_replaced_by_a_file_is_told_before_a_byte_is_fetched(client: Client, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="fabricate_to writes to pipes"):
        client.download("no/such/model", W, tmp_path / "pipe")
    with pytest.raises(IsADirectoryError):
        client.download("no/such/model", W, tmp_path)
    with pytest.raises(FileNotFoundError):
        client.download("no/such/model", W, tmp_path / "missing" / "f")
    assert (tmp_path / "pipe").is_fifo()


def test_two_downloads_to_one_path_both_end_well(server: Server, tmp_path: Path) -> None:
    def download(number: int) -> None:
        with Client(server.url) as client:
            client.download(MODEL, W, tmp_path / f"f{number // 4}")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(download, range(80)))
    assert {sha256(tmp_path / f"f{number}") for number in range(20)} == {SMALL_HASH}
    assert len(list(tmp_path.iterdir())) == 20


@pytest.mark.skipif(partfile.fcntl is None, reason="this system has no flock")
def test_a_name_that_is_reserved_is_not_for_another_program_to_remove(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another looks for parts after the name is reserved, and before the file lies there."""
    target, rename = tmp_path / "f", PartFile._rename

    def beside_another(part: PartFile, path: Path) -> None:
        left = [found for found, _ in PartFile.left(target)]
        rename(part, path)
        for found in left:
            found.remove()

    monkeypatch.setattr(PartFile, "_rename", beside_another)
    with PartFile.begin(target, '"etag"', b"header") as part:
        part.become(target)
    assert target.read_bytes() == b"header"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.skipif(partfile.fcntl is None, reason="this system has no flock")
def test_a_file_system_without_locks_will_do(client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(file: object, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(partfile.fcntl, "flock", flock)
    client.download(MODEL, W, tmp_path / "f")
    assert sha256(tmp_path / "f") == SMALL_HASH


def test_a_model_may_be_deleted_while_its_file_is_on_its_way(server: Server, tmp_path: Path) -> None:
    with Client(server.url) as client:
        client.create_model(MODEL | {"name": "download/deleted"})
        gone = list[int]()

        def delete(done: int, total: int) -> None:
            if done > 200_000 and not gone:
                gone.append(done)
                with Client(server.url) as other:
                    other.delete_model("download/deleted")

        client.download("download/deleted", W, tmp_path / "f", progress=delete, verify="full")
    assert gone
