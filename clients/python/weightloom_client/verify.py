"""Trust, but verify: some or all bytes are made again here, from seed and w, and compared.

Tensors of imported factors are left out: what they are made of is with the server alone.
"""

from __future__ import annotations

import math
import os
import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from weightloom_client.abort import check_aborted
from weightloom_client.errors import WrongBits
from weightloom_client.fetch import Fetch
from weightloom_client.memory import Bytes

if TYPE_CHECKING:
    from weightloom.fabric import ModelSpec, VirtualFile

__all__ = ["Mode", "Verifier", "check_mode"]

Mode = Literal["sample", "full", "off"]
WINDOW, WINDOWS = 1 << 10, 32  # bytes, and how many of them a sample has: some hundredths of a second where r is 64
NOTHING = np.empty(0, np.float32)  # in place of imported factors, which are not here and not read
TILES, WORTH_THREADS = 64, 4  # that are compared at a time, and from how many on threads are worth their start


def check_mode(mode: str) -> None:
    """Raise ValueError for a mode that does not exist."""
    if mode not in get_args(Mode):
        raise ValueError(f"verify: got {mode!r}, expected one of {', '.join(get_args(Mode))}")


class Verifier:
    """spec_of: the spec of a digest that a file names. One call, of one thread."""

    def __init__(self, mode: Mode, spec_of: Callable[[str], ModelSpec]) -> None:
        self._mode, self._spec_of = mode, spec_of
        self._made: VirtualFile | None = None

    def prepare(self, fetch: Fetch) -> None:
        """Find the model: it may be deleted before all has come. Raises WrongBits where the header is another."""
        if self._mode != "off":
            self._made = self._file(fetch)

    def __call__(self, fetch: Fetch, received: Callable[[int, int], Bytes]) -> None:
        """Compare what ``received`` has of the fetch's entries. Raises WrongBits, saying where it differs."""
        if self._made is None or not fetch.entries:
            return
        made = self._made
        start, stop = fetch.entries[0].begin, fetch.entries[-1].end
        ranges = _all(made, start, stop) if self._mode == "full" else _sample(fetch, start, stop)
        if made.layout.imported:
            ranges = _drawn(made, ranges)
        while batch := [piece for piece, _ in zip(ranges, range(TILES), strict=False)]:
            check_aborted()
            if len(batch) < WORTH_THREADS:
                for piece in batch:
                    _compare(made, received, *piece)
                continue
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                for _ in pool.map(lambda piece: _compare(made, received, *piece), batch):
                    pass

    def _file(self, fetch: Fetch) -> VirtualFile:
        """The file that should have come; its header and size are compared at once."""
        from weightloom.fabric import VirtualFile
        from weightloom.fabric.factors import ImportedOnly

        unread = ImportedOnly(lambda blob: NOTHING)
        wanted, request = fetch.wanted, fetch.wanted.request
        model = wanted.model
        if isinstance(model, str):
            model = self._spec_of(fetch.metadata.get("digest", ""))
        made = VirtualFile(
            model, request.w, dtype=request.dtype, tensors=request.tensors, rows=request.rows, kept=unread
        )
        if (made.header, made.size) != (fetch.header, fetch.total):
            raise WrongBits("the file's header is not that of the model and request")
        return made


def _drawn(made: VirtualFile, ranges: Iterator[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """What of the ranges lies in tensors whose factors follow from the seed: others cannot be made again here."""
    from weightloom.fabric.sections import TensorSection

    for start, stop in ranges:
        at = start
        while at < stop:
            section = made.layout.section_at(at)
            end = min(stop, section.stop)
            if not (isinstance(section, TensorSection) and section.part.spec.blob):
                yield at, end
            at = end


def _all(made: VirtualFile, start: int, stop: int) -> Iterator[tuple[int, int]]:
    while start < stop:
        end = min(stop, made.next_cut(start))
        yield start, end
        start = end


def _sample(fetch: Fetch, start: int, stop: int) -> Iterator[tuple[int, int]]:
    """The first and last bytes of some tensors, and windows anywhere, which nobody can know beforehand; and around the
    byte at which a stopped download went on.
    """
    windows = math.ceil(WINDOWS * (stop - start) / fetch.total)  # of a tensor its share of the file's
    some = random.sample(fetch.entries, min(len(fetch.entries), math.ceil(windows / 4)))
    places = {place for entry in some for place in (entry.begin, max(entry.begin, entry.end - WINDOW))}
    places |= {random.randrange(start, stop) for _ in range(min(windows, stop - start))}
    places |= {place for place in (fetch.resumed_at - WINDOW, fetch.resumed_at) if start <= place}
    for place in sorted(places):
        if place < stop:
            yield place, min(stop, place + WINDOW)


def _compare(made: VirtualFile, received: Callable[[int, int], Bytes], start: int, stop: int) -> None:
    expected, found = np.empty(stop - start, np.uint8), received(start, stop - start)
    made.read_into(start, expected)
    if not np.array_equal(expected, found):
        at = start + int(np.argmax(expected != found))
        section = made.layout.section_at(at)
        name = section.part.spec.name if hasattr(section, "part") else "the header"
        raise WrongBits(f"byte {at} of the file, in {name!r}, is {found[at - start]}, not {expected[at - start]}")
