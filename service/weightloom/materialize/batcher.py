"""Rows of one model together, so that what their files share is made once; never more rows than fit into a bound."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from weightloom.errors import WeightloomError
from weightloom.materialize.batches import Batch, Item, Known, Outcome, failure
from weightloom.materialize.models import Models
from weightloom.materialize.table import Row

__all__ = ["MAX_ROWS", "Batcher"]

MAX_ROWS, MIN_ROWS = 256, 4
INLINE_ROWS = 32  # of rows that bring their own specs, whose size is not known here
BATCH_FILE_BYTES = 1 << 30  # of files that one batch makes, about
BATCH_ROW_BYTES = 8 << 20  # of rows in one batch
HELD_BYTES, HELD_ROWS = 64 << 20, 1 << 15  # of rows that wait for others of their model, and of their models' specs
INLINE = ""


@dataclass
class _Waiting:
    key: str
    most: int
    specs: dict[str, bytes]
    items: list[Item] = field(default_factory=list)
    size: int = 0  # of the rows

    @property
    def held(self) -> int:
        """Bytes of all that waits."""
        return self.size + sum(map(len, self.specs.values()))


class Batcher:
    """claim: what the journal says of a file. failed: called for rows that cannot be made. most: rows in a batch."""

    def __init__(
        self,
        models: Models,
        claim: Callable[[str, int], Known | None],
        failed: Callable[[Outcome], None],
        most: int = MAX_ROWS,
    ) -> None:
        self._models, self._claim, self._failed, self._most = models, claim, failed, most
        self._waiting: dict[str, _Waiting] = {}
        self._held_rows = self._held_bytes = 0

    def batches(self, rows: Iterable[Row | tuple[int, str, WeightloomError]]) -> Iterator[Batch]:
        """All rows but those that fail here."""
        for row in rows:
            if isinstance(row, tuple):
                self._failed(failure(*row))
                continue
            try:
                waiting = self._added(row)
            except WeightloomError as error:
                self._failed(failure(row.number, row.file, error))
                continue
            if len(waiting.items) >= waiting.most or waiting.size >= BATCH_ROW_BYTES:
                yield self._taken(waiting)
            while self._held_bytes > HELD_BYTES or self._held_rows > HELD_ROWS:
                yield self._taken(max(self._waiting.values(), key=lambda waiting: len(waiting.items)))
        while self._waiting:
            yield self._taken(next(iter(self._waiting.values())))

    def _added(self, row: Row) -> _Waiting:
        model = None if row.model is None else self._models.get(row.model)
        known = self._claim(row.file, row.number)
        key = model.key if model else INLINE
        if key not in self._waiting:
            most = max(MIN_ROWS, BATCH_FILE_BYTES // max(1, model.file_bytes)) if model else INLINE_ROWS
            self._waiting[key] = _Waiting(key, min(most, self._most), {})
        waiting = self._waiting[key]
        if model and row.model and row.model not in waiting.specs:
            waiting.specs[row.model] = model.spec
            self._held_bytes += len(model.spec)
        waiting.items.append(Item(row.number, row.file, row.body, row.model, known))
        waiting.size += row.size
        self._held_rows, self._held_bytes = self._held_rows + 1, self._held_bytes + row.size
        return waiting

    def _taken(self, waiting: _Waiting) -> Batch:
        del self._waiting[waiting.key]
        self._held_rows, self._held_bytes = self._held_rows - len(waiting.items), self._held_bytes - waiting.held
        return Batch(waiting.items, waiting.specs)
