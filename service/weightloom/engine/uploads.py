"""Uploads of imported factors: part by part to disk, with no more of a blob in memory than a part."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import closing, suppress

from weightloom.engine.turns import Turns
from weightloom.errors import Unavailable
from weightloom.registry import Registry

__all__ = ["Uploads"]

PART_BYTES = 1 << 20


class Uploads:
    """``writes`` is whose turn it is to write to the registry."""

    def __init__(self, registry: Registry, writes: Turns) -> None:
        self._registry, self._writes = registry, writes

    async def put(self, digest: str, parts: AsyncIterator[bytes]) -> bool:
        """Keep a blob; False where it was there already. Raises InvalidFactors, Unavailable, and what ``parts`` raise.

        What nobody refers to is swept out afterwards, so that uploads alone cannot fill a disk for ever.
        """
        with closing(await asyncio.to_thread(self._registry.factors.begin, digest)) as upload:
            async for part in _gathered(parts):
                await asyncio.to_thread(upload.write, part)
            is_new = await asyncio.to_thread(upload.finish)
        with suppress(Unavailable):  # the blob is kept; the next upload sweeps
            await self._writes.run(self._registry.sweep)
        return is_new

    async def size(self, digest: str) -> int:
        """Bytes of a blob, which then stays as long as if it came now. Raises NotFound, InvalidFactors, Unavailable."""
        return await asyncio.to_thread(self._registry.factors.size, digest)


async def _gathered(parts: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The same bytes in parts of a size that is worth a thread."""
    waiting, size = list[bytes](), 0
    async for part in parts:
        waiting.append(part)
        size += len(part)
        if size >= PART_BYTES:
            yield b"".join(waiting)
            waiting, size = [], 0
    yield b"".join(waiting)
