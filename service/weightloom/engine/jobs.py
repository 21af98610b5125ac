"""Jobs that take too long for the event loop, in a few threads of their own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

from weightloom.engine.admission import Admission

__all__ = ["Jobs"]

P = ParamSpec("P")
R = TypeVar("R")


class Jobs:
    """As many may wait for one of the ``threads`` as may wait at the gate."""

    def __init__(self, admission: Admission, threads: int, name: str) -> None:
        self._admission, self._count = admission, 0
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=name)

    async def run(self, job: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """What ``job`` gives. Raises Overloaded where too many wait."""
        self._admission.check_room(self._count)
        self._count += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, partial(job, *args, **kwargs))
        finally:
            self._count -= 1

    def close(self) -> None:
        """Begin no more of them."""
        self._pool.shutdown(wait=False, cancel_futures=True)
