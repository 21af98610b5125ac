"""A file on disk: written beside its name, renamed when it is whole and verified, and gone on with after any stop.

The bytes that have come lie in ``.NAME.ETAG.part`` beside the target. The ETag names every bit of the file, so a part
that a killed program left behind is gone on with, and one of another w, dtype or model is never mixed in.
"""

from __future__ import annotations

import mmap
import os
import secrets
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import numpy as np

from weightloom_client.errors import RequestRejected, WrongBits
from weightloom_client.fetch import Fetch, Verify
from weightloom_client.progress import Progress
from weightloom_client.protocol import Transfer, Wanted
from weightloom_client.replicas import Replicas
from weightloom_client.stripes import STRIPE

try:
    import fcntl
except ImportError:  # Windows, where two programs that download one file at once are on their own
    fcntl = None  # type: ignore[assignment]

__all__ = ["download"]

GONE = ("etag_mismatch", "offset_out_of_range")  # the part is of another file


def download(replicas: Replicas, wanted: Wanted, target: Path, progress: Progress, verify: Verify) -> str:
    """Bring the file to ``target``, replacing what is there; returns its ETag. Raises OSError too."""
    target = target.resolve()  # a link stays a link
    _drop_holes(target)
    with _continued(replicas, wanted, target, progress) as (fetch, part):
        with part.open("r+b") as file:
            _lock(file)
            with _prefix_kept(fetch, part, file):
                if fetch.transfer.position < fetch.total:
                    fetch.data(_put_into(file, fetch.stream.step))
                file.flush()
                os.fsync(file.fileno())
            _verified(fetch, file, part, verify)
        part.replace(target)
        _sync_folder(target.parent)
        return fetch.transfer.etag


@contextmanager
def _continued(replicas: Replicas, wanted: Wanted, target: Path, progress: Progress) -> Iterator[tuple[Fetch, Path]]:
    """The fetch behind the part that is there, or a new one, and the part's file with its header."""
    for old in sorted(target.parent.glob(f".{_escaped(target.name)}.*.part")):
        if _is_busy(old):
            continue
        position, etag = old.stat().st_size, f'"{old.name[len(target.name) + 2 : -len(".part")]}"'
        with Fetch(replicas, wanted, progress, Transfer(position, None, etag)) as fetch:
            if _goes_on(fetch, old):
                yield fetch, old
                return
    with Fetch(replicas, wanted, progress) as fetch:
        fetch.open()
        part = target.with_name(f".{target.name}.{_name_of(fetch.transfer.etag)}.part")
        if part.exists():  # another program is at it
            part = part.with_name(f"{part.name[: -len('.part')]}-{secrets.token_hex(4)}.part")
        part.write_bytes(fetch.header)
        yield fetch, part


def _goes_on(fetch: Fetch, part: Path) -> bool:
    """Whether ``part`` begins the very file that is wanted. Parts of others stay: they may be wanted yet."""
    with part.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = file.read(size) if size <= fetch.transfer.position - 8 else b""
    if not header:
        return False
    try:
        fetch.stream.open()
    except RequestRejected as error:
        if error.code in GONE:
            return False
        raise
    fetch.read_header(size.to_bytes(8, "little") + header)
    return True


@contextmanager
def _prefix_kept(fetch: Fetch, part: Path, file: BinaryIO) -> Iterator[None]:
    """While stripes leave holes in the file, it has a name under which nobody goes on with it."""
    if len(fetch.replicas) == 1 or fetch.total - fetch.transfer.position <= STRIPE:
        yield
        return
    holes = part.with_name(f"{part.name}.{secrets.token_hex(4)}.holes")
    part.replace(holes)
    try:
        yield
    except BaseException:
        file.truncate(fetch.transfer.position)
        raise
    finally:
        holes.replace(part)


def _put_into(file: BinaryIO, step: int) -> Callable[[int, Callable[[memoryview], None], int], None]:
    lock = threading.Lock()

    def put(offset: int, read_into: Callable[[memoryview], None], length: int) -> None:
        buffer = memoryview(bytearray(min(step, length)))
        for start in range(offset, offset + length, len(buffer)):
            view = buffer[: offset + length - start]
            read_into(view)
            with lock:
                file.seek(start)
                file.write(view)

    return put


def _verified(fetch: Fetch, file: BinaryIO, part: Path, verify: Verify) -> None:
    """Compare what is in the file, bytes of earlier programs included; a part that is wrong is removed."""
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        try:
            verify(fetch, lambda offset, length: np.frombuffer(mapped[offset : offset + length], np.uint8))
        except WrongBits:
            part.unlink(missing_ok=True)
            raise


def _drop_holes(target: Path) -> None:
    """What programs that were killed over a striped download have left."""
    for left in target.parent.glob(f".{_escaped(target.name)}.*.holes"):
        if not _is_busy(left):
            left.unlink(missing_ok=True)


def _is_busy(part: Path) -> bool:
    """Whether a program that runs is writing to it."""
    with suppress(FileNotFoundError), part.open("r+b") as file:
        return not _lock(file)
    return True


def _lock(file: BinaryIO) -> bool:
    """Keep others from going on with this file until it is closed. False where another has it."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _name_of(etag: str) -> str:
    """Our ETags are letters, digits and dashes; a proxy's may be anything, and then the part is not found again."""
    plain = etag.strip('"')
    return plain if plain.replace("-", "").isalnum() else secrets.token_hex(8)


def _escaped(name: str) -> str:
    return "".join(f"[{c}]" if c in "*?[" else c for c in name)


def _sync_folder(folder: Path) -> None:
    """So that the new name survives a power cut, too."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
