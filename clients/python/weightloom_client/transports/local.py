"""No server at all: the fabric in this process, with the same models, files and errors."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from weightloom import errors
from weightloom.fabric import ModelSpec, VirtualFile, load_backend
from weightloom.fabric.factors import ImportedOnly
from weightloom.http_status import status_of
from weightloom.registry import REGISTRY_FILE, SqliteRegistry, describe

from weightloom_client.errors import server_error
from weightloom_client.factors import FactorBlob
from weightloom_client.protocol import Head, Part, Wanted
from weightloom_client.transports.base import Model

__all__ = ["LocalTransport"]

PAGE = 1000


class LocalTransport:
    """See ``Transport``. data_dir: the folder of a registry (made where it is missing); None keeps models in memory."""

    url = "local"

    def __init__(self, data_dir: str | os.PathLike[str] | None = None, backend: str = "auto") -> None:
        path = None if data_dir is None else Path(data_dir) / REGISTRY_FILE
        self._backend = load_backend(backend)
        with _told():
            self._registry = SqliteRegistry(path)
        self._kept = ImportedOnly(self._registry.factors.open)
        self._pool, self._process = _new_pool(), os.getpid()

    def open(self, wanted: Wanted, part: Part) -> LocalReply:
        """The file is laid out now and woven as it is read."""
        with _told():
            model = self._spec(wanted.model)
            request = wanted.request
            file = VirtualFile(
                model,
                request.w,
                dtype=request.dtype,
                tensors=request.tensors,
                rows=request.rows,
                backend=self._backend,
                kept=self._kept,
            )
            if part.etag and part.etag != file.etag:
                raise errors.PreconditionFailed(f"the file is {file.etag}, not {part.etag}")
            length = max(0, file.size - part.offset) if part.length is None else part.length
            file.layout.check_range(part.offset, length)
        if self._process != os.getpid():  # after a fork, which takes no threads along
            self._pool, self._process = _new_pool(), os.getpid()
        return LocalReply(file, part.offset, length, self._pool.map)

    def create_model(self, spec: Mapping[str, Any]) -> Model:
        """Into this process's registry."""
        with _told():
            parsed = ModelSpec.from_value(dict(spec))
            return describe(self._registry.create(parsed)[0], parsed)

    def get_model(self, name: str) -> Model:
        """From this process's registry."""
        with _told():
            summary = self._registry.find(name)
            return describe(summary, self._registry.load(summary))

    def list_models(self, after: str) -> tuple[list[Model], str]:
        """From this process's registry."""
        with _told():
            found = [asdict(summary) for summary in self._registry.page(after, PAGE)]
        return found, found[-1]["name"] if len(found) == PAGE else ""

    def delete_model(self, name: str) -> None:
        """From this process's registry."""
        with _told():
            self._registry.delete(name)

    def set_residency(self, name: str, residency: str | None) -> Model:
        """Remembered by the registry; nothing is kept in memory here."""
        with _told():
            self._registry.set_residency(name, residency)
        return self.get_model(name)

    def has_factors(self, blob: FactorBlob) -> bool:
        """Beside this process's registry."""
        with _told():
            try:
                return self._registry.factors.size(blob.digest) == blob.size
            except errors.NotFound:
                return False

    def put_factors(self, blob: FactorBlob) -> None:
        """Beside this process's registry, or into a temporary folder."""
        with _told():
            self._registry.factors.put(blob.digest, blob.parts())

    def close(self) -> None:
        """Let go of the registry and the threads."""
        self._pool.shutdown()
        self._registry.close()

    def _spec(self, model: str | ModelSpec) -> ModelSpec:
        return model if isinstance(model, ModelSpec) else self._registry.load(self._registry.find(model))


class LocalReply:
    """See ``Reply``. ``run`` maps over the pool's threads."""

    step = 32 << 20  # tiles enough for many threads

    def __init__(self, file: VirtualFile, offset: int, length: int, run: Callable[..., Iterator[Any]]) -> None:
        self.head = Head(file.etag, file.size, offset, length)
        self._file, self._position, self._stop, self._run = file, offset, offset + length, run

    def readinto(self, view: memoryview) -> int:
        """Weave straight into ``view``, tile by tile on all cores."""
        out = np.frombuffer(view, np.uint8)[: self._stop - self._position]
        cuts = [self._position, *self._cuts(self._position + len(out))]
        ranges = list(pairwise(cuts))
        for _ in self._run(partial(self._fill, self._position, out), ranges):
            pass
        self._position += len(out)
        return len(out)

    def _cuts(self, stop: int) -> Iterator[int]:
        at = self._position
        while at < stop:
            at = min(stop, self._file.next_cut(at))
            yield at

    def _fill(self, start: int, out: npt.NDArray[np.uint8], ends: tuple[int, int]) -> None:
        self._file.read_into(ends[0], out[ends[0] - start : ends[1] - start])

    def cancel(self) -> None:
        """Nobody waits for long."""

    def close(self) -> None:
        """Nothing is held."""


def _new_pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="weaver")


@contextmanager
def _told() -> Iterator[None]:
    """The fabric's errors as the client's."""
    try:
        yield
    except errors.WeightloomError as error:
        violations = [violation.as_dict() for violation in error.violations]
        problem = {"code": error.code, "detail": error.message, "errors": violations}
        raise server_error(status_of(error), problem) from error
