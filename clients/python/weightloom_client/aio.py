"""The client for asyncio. Each call runs the blocking client's code in a thread, where waiting for a socket costs
nothing: so there is one way to transfer, retry and verify, and 1 MiB at a time is received without the GIL.

A cancelled call ends at its next MiB, or when its time-out is over where nothing comes at all.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from typing import TYPE_CHECKING, Any, ParamSpec, Self, TypeVar, Unpack

import numpy.typing as npt

from weightloom_client.abort import ABORT
from weightloom_client.client import Arrays, Client
from weightloom_client.factors import AnyBlob
from weightloom_client.progress import Progress
from weightloom_client.protocol import AnyModel, Options, RetryPolicy, W
from weightloom_client.transports import Direct, Timeouts, Tls
from weightloom_client.verify import Mode

if TYPE_CHECKING:
    from weightloom.fabric import ModelSpec

__all__ = ["AsyncClient"]

P = ParamSpec("P")
T = TypeVar("T")
END: Any = object()


class AsyncClient:
    """See ``Client``, whose calls it has. max_concurrency: calls that run at a time; others wait for their turn."""

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
        max_concurrency: int = 32,
    ) -> None:
        options: dict[str, Any] = {"headers": headers, "api_key": api_key, "tls": tls}
        options |= {"direct": direct, "streams": streams}
        self._start(Client(urls, timeouts=timeouts, retries=retries, verify=verify, **options), max_concurrency)

    @classmethod
    def local(
        cls,
        data_dir: str | os.PathLike[str] | None = None,
        *,
        verify: Mode = "off",
        backend: str = "auto",
        max_concurrency: int = 4,
    ) -> Self:
        """See ``Client.local``."""
        client = cls.__new__(cls)
        client._start(Client.local(data_dir, verify=verify, backend=backend), max_concurrency)
        return client

    def _start(self, client: Client, max_concurrency: int) -> None:
        self._client, self._pool = client, ThreadPoolExecutor(max_concurrency, thread_name_prefix="weightloom")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Wait for the calls that run, and close the connections."""
        await asyncio.to_thread(self._pool.shutdown)
        self._client.close()

    async def create_model(self, spec: ModelSpec | Mapping[str, Any] | bytes | str) -> dict[str, Any]:
        """See ``Client.create_model``."""
        return await self._run(self._client.create_model, spec)

    async def get_model(self, name: str) -> dict[str, Any]:
        """See ``Client.get_model``."""
        return await self._run(self._client.get_model, name)

    async def get_spec(self, name: str) -> ModelSpec:
        """See ``Client.get_spec``."""
        return await self._run(self._client.get_spec, name)

    def list_models(self) -> AsyncIterator[dict[str, Any]]:
        """See ``Client.list_models``."""
        return self._each(self._client.list_models)

    async def delete_model(self, name: str) -> None:
        """See ``Client.delete_model``."""
        await self._run(self._client.delete_model, name)

    async def set_residency(self, name: str, residency: str | None) -> dict[str, Any]:
        """See ``Client.set_residency``."""
        return await self._run(self._client.set_residency, name, residency)

    async def put_factors(self, blob: AnyBlob) -> str:
        """See ``Client.put_factors``."""
        return await self._run(self._client.put_factors, blob)

    async def fabricate(
        self,
        model: AnyModel,
        w: W | None = None,
        *,
        out: Mapping[str, npt.NDArray[Any]] | None = None,
        verify: Mode | None = None,
        progress: Progress | None = None,
        **options: Unpack[Options],
    ) -> Arrays:
        """See ``Client.fabricate``; progress is called in another thread."""
        return await self._run(self._client.fabricate, model, w, out=out, verify=verify, progress=progress, **options)

    def iter_tensors(
        self,
        model: AnyModel,
        w: W | None = None,
        *,
        verify: Mode | None = None,
        progress: Progress | None = None,
        **options: Unpack[Options],
    ) -> AsyncIterator[tuple[str, npt.NDArray[Any]]]:
        """See ``Client.iter_tensors``."""
        return self._each(self._client.iter_tensors, model, w, verify=verify, progress=progress, **options)

    async def download(
        self,
        model: AnyModel,
        w: W | None = None,
        path: str | os.PathLike[str] = "",
        *,
        verify: Mode | None = None,
        progress: Progress | None = None,
        **options: Unpack[Options],
    ) -> str:
        """See ``Client.download``."""
        return await self._run(self._client.download, model, w, path, verify=verify, progress=progress, **options)

    async def _run(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._in_thread(threading.Event(), partial(call, *args, **kwargs))

    async def _each(self, call: Callable[P, Iterator[T]], *args: P.args, **kwargs: P.kwargs) -> AsyncIterator[T]:
        """The items of an iterator that blocks, each taken in a thread."""
        abort, lock = threading.Event(), threading.Lock()
        items: Any = await self._in_thread(abort, partial(call, *args, **kwargs))

        def locked(job: Callable[..., Any], *given: Any) -> Any:
            with lock:  # a cancelled step may still run when the iterator is closed
                return job(*given)

        try:
            while (item := await self._in_thread(abort, partial(locked, next, items, END))) is not END:
                yield item
        finally:
            abort.set()
            try:
                self._pool.submit(locked, items.close)
            except RuntimeError:  # the client was closed meanwhile, so nothing runs any more
                items.close()

    async def _in_thread(self, abort: threading.Event, job: Callable[[], T]) -> T:
        context = copy_context()
        context.run(ABORT.set, abort)
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, context.run, job)
        except asyncio.CancelledError:
            abort.set()
            raise
