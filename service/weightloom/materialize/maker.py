"""What a worker does, wherever it runs: a batch of items in, files written and verified, outcomes back."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic_core import from_json

from weightloom.engine.known_answer import check_known_answer
from weightloom.errors import InvalidInput
from weightloom.fabric import ModelSpec, VirtualFile, load_backend
from weightloom.fabric.device import Cpu, aligned_block
from weightloom.fabric.factors import ImportedOnly
from weightloom.fabric.passes import weave
from weightloom.materialize.batches import Batch, Item, Outcome, failure
from weightloom.materialize.sink import Part, open_sink
from weightloom.registry.blobs import FactorBlobs
from weightloom.requests import FabricateRequest, request_from_value

__all__ = ["Maker", "MakerOptions"]

WINDOW_BYTES = 32 << 20  # of files that are made together, at a time
ALIGNMENT = 64
PASS_FILES = 64  # sums of more in one pass leave the cache
GROUP_BYTES, MIN_GROUP = 1 << 30, 4  # files that are open at a time: what a killed run has made of them is lost


@dataclass(frozen=True)
class MakerOptions:
    """target: a folder or URL. factors: where imported factors lie. recheck: whether to read what earlier runs made."""

    target: str
    factors: Path | None = None
    recheck: bool = False


@dataclass(eq=False)
class _Wanted:
    """A file to be made."""

    item: Item
    file: VirtualFile
    part: Part
    digest: Any = field(default_factory=hashlib.sha256)


class Maker:
    """One for each process. Raises Unavailable where its arithmetic gives a wrong known answer."""

    def __init__(self, options: MakerOptions) -> None:
        self._options, self._backend = options, load_backend()
        check_known_answer(Cpu(self._backend))
        self._sink = open_sink(options.target)
        self._kept = ImportedOnly(FactorBlobs(options.factors).open)
        self._threads = ThreadPoolExecutor(self._sink.threads) if self._sink.threads > 1 else None
        self._memory = aligned_block(0)

    def make(self, batch: Batch) -> list[Outcome]:
        """What became of each item; an item that fails is no trouble to the others."""
        outcomes: list[Outcome] = []
        groups: dict[int, list[tuple[Item, VirtualFile]]] = {}
        for item in batch.items:
            try:
                file = self._lay_out(item, batch.specs)
                if self._is_there(item, file.etag):
                    known = item.known
                    assert known is not None
                    outcomes.append(Outcome(item.row, item.file, "kept", known.etag, known.size, known.sha256))
                else:
                    groups.setdefault(id(file.layout), []).append((item, file))
            except Exception as error:
                outcomes.append(failure(item.row, item.file, error))
        for files in groups.values():
            for together in _cut(files):
                try:
                    outcomes += self._make(together)
                except Exception as error:  # of memory, or of something that nobody has thought of
                    outcomes += [failure(item.row, item.file, error) for item, _ in together]
        return outcomes

    def _lay_out(self, item: Item, specs: dict[str, bytes]) -> VirtualFile:
        request = item.body if isinstance(item.body, FabricateRequest) else _request_of(item.body, item.model)
        if request.offset or request.length is not None:
            raise InvalidInput.at("offset, length", "a part of a file", "neither of them: files are made whole")
        model = request.model if isinstance(request.model, ModelSpec) else _spec(specs[str(item.model)])
        options = {"dtype": request.dtype, "tensors": request.tensors, "rows": request.rows}
        return VirtualFile(model, request.w, **options, backend=self._backend, kept=self._kept)  # type: ignore[arg-type]

    def _is_there(self, item: Item, etag: str) -> bool:
        """Whether an earlier run has made this very file, and it is there still."""
        known = item.known
        if known is None or known.etag != etag:
            return False
        if self._options.recheck or not known.is_sure:
            return self._sink.sha256(item.file) == known.sha256
        return self._sink.has(item.file, known.size)

    def _make(self, files: Sequence[tuple[Item, VirtualFile]]) -> list[Outcome]:
        """Files of one layout, side by side and window by window: what they share of T is drawn once."""
        outcomes: list[Outcome] = []
        wanted = list(self._begun(files, outcomes))
        try:
            size = files[0][1].size
            step = max(ALIGNMENT, WINDOW_BYTES // len(files) // ALIGNMENT * ALIGNMENT)
            for start in range(0, size, step):
                wanted = self._write_window(wanted, start, min(step, size - start), outcomes)
            finish = map if self._threads is None else self._threads.map
            return outcomes + list(finish(_finished, wanted))
        finally:
            for one in wanted:
                one.part.discard()

    def _begun(self, files: Sequence[tuple[Item, VirtualFile]], failed: list[Outcome]) -> Iterator[_Wanted]:
        for item, file in files:
            try:
                yield _Wanted(item, file, self._sink.begin(item.file))
            except Exception as error:
                failed.append(failure(item.row, item.file, error))

    def _write_window(self, wanted: list[_Wanted], start: int, length: int, failed: list[Outcome]) -> list[_Wanted]:
        """Make and write bytes from ``start`` on of all files; those go on that could be written."""
        written = []
        for one, data in zip(wanted, self._woven(wanted, start, length), strict=True):
            try:
                one.digest.update(data)
                one.part.write(data)
                written.append(one)
            except Exception as error:
                one.part.discard()
                failed.append(failure(one.item.row, one.item.file, error))
        return written

    def _woven(self, wanted: list[_Wanted], start: int, length: int) -> list[memoryview]:
        outs = self._outs(len(wanted), length)
        for first in range(0, len(wanted), PASS_FILES):
            some = zip(wanted[first : first + PASS_FILES], outs[first : first + PASS_FILES], strict=True)
            weave([piece for one, out in some for piece in one.file.pieces(start, out)])
        return [out.data for out in outs]

    def _outs(self, count: int, length: int) -> list[npt.NDArray[np.uint8]]:
        """Memory for each file, aligned; the same again and again."""
        stride = -(-length // ALIGNMENT) * ALIGNMENT
        if len(self._memory) < count * stride:
            self._memory = aligned_block(count * stride)
        return [self._memory[i * stride : i * stride + length] for i in range(count)]


def _cut(files: list[tuple[Item, VirtualFile]]) -> Iterator[list[tuple[Item, VirtualFile]]]:
    """Files of one layout, as many together as are worth it."""
    most = max(MIN_GROUP, GROUP_BYTES // files[0][1].size)
    for first in range(0, len(files), most):
        yield files[first : first + most]


def _finished(one: _Wanted) -> Outcome:
    item, sha256 = one.item, one.digest.hexdigest()
    try:
        state = "made" if one.part.finish(sha256) else "kept"
    except Exception as error:
        return failure(item.row, item.file, error)
    return Outcome(item.row, item.file, state, one.file.etag, one.file.size, sha256)  # type: ignore[arg-type]


def _request_of(body: bytes, model: str | None) -> FabricateRequest:
    """The request in a row of JSON. Raises InvalidInput."""
    value = from_json(body)
    del value["file"]
    if model is not None:
        value.setdefault("model", model)
    return request_from_value(value, body)


@lru_cache(maxsize=64)
def _spec(body: bytes) -> ModelSpec:
    return ModelSpec.parse(body)
