"""Batches made on Ray Data: the same ``Maker`` in actors, on as many machines as the cluster has."""

from __future__ import annotations

import logging
import pickle
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

from weightloom.errors import InvalidInput, Unavailable, WeightloomError
from weightloom.materialize.batches import Batch, Outcome, failure
from weightloom.materialize.maker import Maker, MakerOptions

__all__ = ["OnRay"]

WAVE_BATCHES = 512  # that lie in Ray's object store at a time; with 256 rows in each, 131,072 rows
BATCH, PLACE, OUTCOMES = "batch", "place", "outcomes"
DIED = Unavailable("the actor that made it died, twice", code="worker_died")
Key = tuple[int, int | None]  # a batch's place in its wave, and an item's row


class OnRay:
    """See ``Workers``. address: of a cluster, "auto" for the one that this machine belongs to, "local" for a new one.

    actors: how many make; the default is one for each core that the cluster has.
    """

    def __init__(
        self,
        address: str,
        actors: int | None,
        options: MakerOptions,
        maker: Callable[[MakerOptions], Maker] = Maker,
    ) -> None:
        self._address, self._actors, self._options, self._maker = address, actors, options, maker

    def run(self, batches: Iterator[Batch], stop: threading.Event) -> Iterator[list[Outcome]]:
        """See ``Workers.run``; what has begun when ``stop`` is set is given up, and made again by the next run."""
        try:
            import ray
        except ImportError as error:
            message = f"--ray needs Ray: pip install 'weightloom[ray]' ({error})"
            raise Unavailable(message, code="missing_extra") from error
        is_ours = self._address == "local"
        try:
            with _handlers_kept():
                ray.init(
                    self._address,
                    num_cpus=self._actors if is_ours else None,
                    include_dashboard=False if is_ours else None,
                    logging_level=logging.WARNING,
                    log_to_driver=False,
                )
        except (ValueError, RuntimeError, ray.exceptions.RayError) as error:  # others are OSErrors, told as they are
            raise InvalidInput.at("--ray", self._address, f"a cluster that can be reached ({error})") from error
        try:
            while not stop.is_set() and (wave := list(islice(batches, WAVE_BATCHES))):
                yield from self._wave(wave, stop)
        except ray.exceptions.RayError as error:
            raise Unavailable(f"Ray cannot go on: {error}", code="worker_died") from error
        finally:
            ray.shutdown()

    def _wave(self, wave: list[Batch], stop: threading.Event) -> Iterator[list[Outcome]]:
        waiting = dict(enumerate(wave))
        for row in self._answers(wave):
            waiting.pop(int(row[PLACE]))
            answer = pickle.loads(row[OUTCOMES])
            if isinstance(answer, WeightloomError):
                raise answer
            yield answer
            if stop.is_set():
                return
        for batch in waiting.values():  # lost with what Ray itself could not mend
            yield [failure(item.row, item.file, DIED) for item in batch.items]

    def _answers(self, wave: list[Batch]) -> Iterator[dict[str, Any]]:
        import ray
        from ray.data import ActorPoolStrategy, DataContext

        logging.getLogger("ray.data").setLevel(logging.WARNING)
        context = DataContext.get_current()
        context.max_errored_blocks = -1  # a batch whose actors die is told; the others go on
        context.enable_progress_bars = False
        tries = ray.remote(_Tries).options(num_cpus=0).remote()
        cores = ray.cluster_resources()["CPU"]  # type: ignore[no-untyped-call]
        actors = min(len(wave), self._actors or int(cores))
        rows = [{PLACE: place, BATCH: pickle.dumps(batch)} for place, batch in enumerate(wave)]
        made = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
            _Actor,
            fn_constructor_args=(self._options, tries, self._maker),
            batch_size=1,
            compute=ActorPoolStrategy(size=actors),
            num_cpus=1,
        )
        return iter(made.iter_rows())


@contextmanager
def _handlers_kept() -> Iterator[None]:
    """Ray takes SIGTERM for itself, as it begins."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


class _Tries:
    """What has begun and not ended, in an actor of its own: an item whose maker died twice is not tried for ever."""

    def __init__(self) -> None:
        self._begun = set[Key]()

    def begin(self, key: Key) -> bool:
        """Whether this is not under way, as far as is known: if it is, whoever was at it has died."""
        is_new = key not in self._begun
        self._begun.add(key)
        return is_new

    def end(self, key: Key) -> None:
        """It is done."""
        self._begun.discard(key)


class _Actor:
    """A ``Maker`` where Ray wants one. A batch that has killed its maker is made item by item."""

    def __init__(self, options: MakerOptions, tries: Any, make: Callable[[MakerOptions], Maker]) -> None:
        self._tries = tries
        self._maker: Maker | WeightloomError
        try:
            self._maker = make(options)
        except WeightloomError as error:  # the answer to what comes: of one that is raised here Ray makes its own
            self._maker = error

    def __call__(self, rows: dict[str, Any]) -> dict[str, Any]:
        batches = zip(rows[PLACE].tolist(), map(pickle.loads, rows[BATCH]), strict=True)
        return {PLACE: rows[PLACE], OUTCOMES: [pickle.dumps(self._make(place, batch)) for place, batch in batches]}

    def _make(self, place: int, batch: Batch) -> list[Outcome] | WeightloomError:
        maker = self._maker
        if isinstance(maker, WeightloomError):
            return maker
        if self._begin((place, None)):
            return maker.make(batch)
        alone = (Batch([item], batch.specs) for item in batch.items)
        return [outcome for one in alone for outcome in self._make_one(maker, place, one)]

    def _make_one(self, maker: Maker, place: int, batch: Batch) -> list[Outcome]:
        (item,) = batch.items
        if not self._begin((place, item.row)):
            return [failure(item.row, item.file, DIED)]
        outcomes = maker.make(batch)
        self._tries.end.remote((place, item.row))
        return outcomes

    def _begin(self, key: Key) -> bool:
        import ray

        return bool(ray.get(self._tries.begin.remote(key)))
