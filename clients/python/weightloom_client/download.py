"""A file on disk: written beside its name, renamed when it is whole and verified, and gone on with after any stop.

The bytes that have come lie in ``.NAME.ETAG.part`` beside the target (see ``partfile``). The ETag names every bit of
the file, so a part that a killed program left behind is gone on with, and one of another w, dtype or model is never
mixed in.
"""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import numpy as np

from weightloom_client.errors import RequestRejected, WrongBits
from weightloom_client.fetch import Fetch, Verify
from weightloom_client.partfile import PartFile, drop_holes
from weightloom_client.progress import Progress
from weightloom_client.protocol import Transfer, Wanted
from weightloom_client.replicas import Replicas

__all__ = ["download"]


def download(replicas: Replicas, wanted: Wanted, target: Path, progress: Progress, verify: Verify) -> str:
    """Bring the file to ``target``, replacing what is there; returns its ETag. Raises OSError too."""
    target = target.resolve()  # a link stays a link
    _check_is_file(target)
    drop_holes(target)
    with _continued(replicas, wanted, target, progress) as (fetch, part):
        verify.prepare(fetch)
        if part.position < fetch.total:
            with part.with_holes() if fetch.is_striped else nullcontext():
                fetch.data(_put_into(part, fetch.stream.step))
        try:
            _verify(fetch, part, verify)
        except WrongBits:
            part.remove()
            raise
        part.become(target)
        return fetch.transfer.etag


def _check_is_file(target: Path) -> None:
    """Before a byte is fetched. A pipe or device would be replaced."""
    if target.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(target))
    if target.exists() and not target.is_file():
        raise OSError(errno.EINVAL, "no regular file: fabricate_to writes to pipes", os.fspath(target))


@contextmanager
def _continued(
    replicas: Replicas, wanted: Wanted, target: Path, progress: Progress
) -> Iterator[tuple[Fetch, PartFile]]:
    """The fetch behind a part that is there, or a new one, and the part."""
    for part, etag in PartFile.left(target):
        with part, Fetch(replicas, wanted, progress, Transfer(part.position, None, etag)) as fetch:
            if _goes_on(fetch, part):
                yield fetch, part
                return
    with Fetch(replicas, wanted, progress) as fetch:
        fetch.open()
        with PartFile.begin(target, fetch.transfer.etag, fetch.header) as part:
            yield fetch, part


def _goes_on(fetch: Fetch, part: PartFile) -> bool:
    """Whether ``part`` begins the very file that is wanted. Parts of others stay: they may be wanted yet."""
    header = part.header()
    try:
        if header:
            fetch.stream.open()
            fetch.read_header(header)
            return True
    except RequestRejected as error:
        if error.code == "etag_mismatch":
            return False
        if error.code != "offset_out_of_range":
            raise
    except WrongBits:
        pass
    part.remove()  # it is damaged, and would be in the way for ever
    return False


def _put_into(part: PartFile, step: int) -> Callable[[int, Callable[[memoryview], None], int], None]:
    def put(offset: int, read_into: Callable[[memoryview], None], length: int) -> None:
        buffer = memoryview(bytearray(min(step, length)))
        for start in range(offset, offset + length, len(buffer)):
            view = buffer[: offset + length - start]
            read_into(view)
            part.write(start, view)

    return put


def _verify(fetch: Fetch, part: PartFile, verify: Verify) -> None:
    """Compare what is in the file, bytes of earlier programs included."""
    with mmap.mmap(part.file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        verify(fetch, lambda offset, length: np.frombuffer(mapped[offset : offset + length], np.uint8))
