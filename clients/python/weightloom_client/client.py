"""The blocking client. One instance keeps its connections and may be used from several threads."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from io import RawIOBase
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self, Unpack

import numpy.typing as npt

from weightloom_client.download import download
from weightloom_client.errors import WrongBits
from weightloom_client.fetch import Fetch
from weightloom_client.models import ModelCalls
from weightloom_client.progress import Progress, progress_bar
from weightloom_client.protocol import AnyModel, Options, RetryPolicy, W, Wanted
from weightloom_client.replicas import Replicas
from weightloom_client.transports import Direct, Timeouts, Tls, Transport, transport_to
from weightloom_client.verify import Mode, Verifier, check_mode

if TYPE_CHECKING:
    from weightloom.fabric import ModelSpec

__all__ = ["Client"]

KEPT_SPECS = 64  # by digest; a digest's spec never changes

Arrays = dict[str, npt.NDArray[Any]]


class Writable(Protocol):
    """Where a file goes: anything with ``write``."""

    def write(self, data: bytes, /) -> object:
        """Take the next bytes."""


class Client(ModelCalls):
    """Talks to one server, or to several that serve the same models.

    urls: http(s)://…, grpc(s)://host:port; of several the next one is asked where one fails, and large files come from
    all at once. timeouts: of single tries. retries: how often and how long a call tries. verify: "sample" makes some
    bytes of each file again from seed and w and compares them, "full" all of them, "off" none. headers: sent with every
    request. api_key: of a server that wants one. tls: whom to trust at https:// and grpcs://, and what to show there.
    direct: whether large files may come straight from the replica that a balancer at the URL redirects to: "follow",
    "insecure" (from https:// to http:// too, without key and headers), or "off". streams: over how many at once a large
    file comes; None is one for each URL, more spread it over the replicas behind one.

    model, in all calls: a name or digest, a ModelSpec (or the same as JSON has it), or a Bundle, which brings its w.
    w: by tensor numbers of shape (l,), or (B, l) for B variants at once; rounded once to float32. options: dtype,
    "F32", "F16" or "BF16". tensors: only these. rows: by tensor (a, b), only these rows of its first dimension.

    All calls raise RequestRejected, ServerBusy, ServerFailed, ServerUnreachable, WrongBits (see ``errors``).
    """

    def __init__(
        self,
        urls: str | Sequence[str],
        *,
        timeouts: Timeouts = Timeouts(),  # noqa: B008  (frozen)
        retries: RetryPolicy = RetryPolicy(),  # noqa: B008
        verify: Mode = "sample",
        headers: Mapping[str, str] | None = None,
        api_key: str | None = None,
        tls: Tls = Tls(),  # noqa: B008
        direct: Direct = "follow",
        streams: int | None = None,
    ) -> None:
        named = [urls] if isinstance(urls, str) else list(urls)
        if not named:
            raise ValueError("urls: got none, expected at least one")
        sent = dict(headers or {}) | ({"Authorization": f"Bearer {api_key}"} if api_key else {})
        self._start([transport_to(url, timeouts, sent, tls, direct) for url in named], retries, verify, streams)

    @classmethod
    def local(
        cls, data_dir: str | os.PathLike[str] | None = None, *, verify: Mode = "off", backend: str = "auto"
    ) -> Self:
        """A client that fabricates in this process, the same bits. Models are kept in the registry of ``data_dir``,
        or in memory. backend: "numba", "numpy", or "auto" for the fastest one that is installed.
        """
        from weightloom_client.transports.local import LocalTransport

        client = cls.__new__(cls)
        client._start([LocalTransport(data_dir, backend)], RetryPolicy(tries=1), verify)
        return client

    def _start(
        self, transports: Sequence[Transport], retries: RetryPolicy, verify: Mode, streams: int | None = None
    ) -> None:
        check_mode(verify)
        self._replicas, self._mode = Replicas(transports, retries, streams), verify
        self._specs: dict[str, ModelSpec] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._replicas.close()

    def fabricate(
        self,
        model: AnyModel,
        w: W | None = None,
        *,
        out: Mapping[str, npt.NDArray[Any]] | None = None,
        verify: Mode | None = None,
        progress: Progress | None = None,
        **options: Unpack[Options],
    ) -> Arrays:
        """The weights by name, received straight into their memory: one block, of which all arrays are views.

        float32, float16 or (with ml_dtypes, extra ``bfloat16``) bfloat16, of shape (*shape) or (B, *shape). out: arrays
        of these names, dtypes and shapes, of an earlier call for one, to be filled instead: new memory takes the system
        as long as the transfer. After an error they hold some of the new weights. Raises ValueError for other ones.
        """
        wanted = Wanted.of(model, w, **options)
        with Fetch(self._replicas, wanted, progress) as fetch:
            return fetch.open().arrays(self._verifier(verify), out)

    def iter_tensors(
        self,
        model: AnyModel,
        w: W | None = None,
        *,
        verify: Mode | None = None,
        progress: Progress | None = None,
        **options: Unpack[Options],
    ) -> Iterator[tuple[str, npt.NDArray[Any]]]:
        """Name and array of tensor after tensor, each in memory of its own: for models larger than memory.

        One connection stays open until the last one; close the iterator where it is not read to its end.
        """
        wanted, verifier = Wanted.of(model, w, **options), self._verifier(verify)
        return _tensors(Fetch(self._replicas, wanted, progress), verifier)

    def download(
        self,
        model: AnyModel,
        w: W | None = None,
        path: str | os.PathLike[str] = "",
        *,
        verify: Mode | None = None,
        progress: Progress | None = None,
        **options: Unpack[Options],
    ) -> str:
        """Bring the safetensors file to ``path``: there whole and verified, or not at all; returns its ETag.

        What has come stays beside it (``.NAME.….part``) when the program stops, and the same call goes on from there.
        progress: None shows a bar on a terminal. Raises OSError where the disk fails.
        """
        wanted = Wanted.of(model, w, **options)
        target = Path(path)
        if not target.name:
            raise ValueError(f"path: got {os.fspath(path)!r}, expected a file's name")
        with ExitStack() as stack:
            shown = progress or stack.enter_context(progress_bar(target.name))
            return download(self._replicas, wanted, target, shown, self._verifier(verify))

    def fabricate_to(
        self,
        file: Writable,
        model: AnyModel,
        w: W | None = None,
        *,
        progress: Progress | None = None,
        **options: Unpack[Options],
    ) -> str:
        """Write the safetensors file to a pipe, a socket's file, whatever has ``write``; returns its ETag.

        Nothing is kept, so nothing can be verified. What was written when an error is raised is the file's beginning.
        """
        wanted = Wanted.of(model, w, **options)
        with Fetch(self._replicas, wanted, progress) as fetch:
            _write_all(file, fetch.open().header)
            left = fetch.total - len(fetch.header)
            buffer = memoryview(bytearray(min(fetch.stream.step, left)))
            while left:
                view = buffer[: min(len(buffer), left)]
                fetch.stream.read_into(view)
                _write_all(file, view)
                left -= len(view)
            return fetch.transfer.etag

    def _verifier(self, mode: Mode | None) -> Verifier:
        chosen = mode or self._mode
        check_mode(chosen)
        return Verifier(chosen, self._spec)

    def _spec(self, digest: str) -> ModelSpec:
        """The spec of a digest, asked for once."""
        spec = self._specs.get(digest)
        if spec is None:
            spec = self.get_spec(digest)
            if spec.digest != digest:
                raise WrongBits(f"the server gives a spec of digest {spec.digest} for {digest}")
            while len(self._specs) >= KEPT_SPECS:
                self._specs.pop(next(iter(self._specs)), None)
            self._specs[digest] = spec
        return spec


def _write_all(file: Writable, data: bytes | memoryview) -> None:
    """An unbuffered file may take less than it is given, and then says how much."""
    left = memoryview(data)
    while left:
        count = file.write(bytes(left))
        if count is None and isinstance(file, RawIOBase):
            raise BlockingIOError(errno.EAGAIN, "the file does not block, and takes nothing now")
        left = left[count if isinstance(count, int) else len(left) :]


def _tensors(fetch: Fetch, verifier: Verifier) -> Iterator[tuple[str, npt.NDArray[Any]]]:
    with fetch:
        yield from fetch.open().tensors(verifier)
