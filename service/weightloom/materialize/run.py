"""One run over a table: what was made before is kept, the rest is made, and all of it is noted."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path

from weightloom.engine.limits import available_cores
from weightloom.errors import InvalidInput, Unavailable
from weightloom.materialize.batcher import MAX_ROWS, Batcher
from weightloom.materialize.batches import Batch, Outcome
from weightloom.materialize.folder import Folder
from weightloom.materialize.journal import Journal
from weightloom.materialize.maker import MakerOptions
from weightloom.materialize.models import Models
from weightloom.materialize.report import Failures, Tally
from weightloom.materialize.sink import open_sink
from weightloom.materialize.table import STATE_FOLDER, open_table
from weightloom.materialize.workers import Processes, Workers

__all__ = ["Job", "materialize"]

SHARES = 4  # batches for each worker at least, so that all of them end at about the same time
MIN_ROWS = 16
MAX_REFUSED = 1000  # items that cannot be written, one after the other: a full disk ends the run


@dataclass(frozen=True)
class Job:
    """What is to be made.

    table: a file or URL of rows. target: a folder, or a URL for fsspec. models: those that rows may name. processes:
    workers; the default is one for each core. ray: address of a Ray cluster, or "local" for one that is started here;
    then ``processes`` are its actors. state: folder of the journal and of failed.jsonl, for a URL; a folder has its
    own. factors: folder of imported factors. recheck: read again what earlier runs made.
    """

    table: str
    target: str
    models: Models = field(default_factory=lambda: Models([]))
    processes: int | None = None
    ray: str | None = None
    state: Path | None = None
    factors: Path | None = None
    recheck: bool = False

    @property
    def is_folder(self) -> bool:
        """Whether the target is a folder of this machine."""
        return "://" not in self.target or self.target.startswith("file://")

    @property
    def absolute_target(self) -> str:
        """For workers of Ray, whose working folder is another."""
        return str(Path(self.target.removeprefix("file://")).absolute()) if self.is_folder else self.target

    @property
    def state_folder(self) -> Path:
        """Where the journal and failed.jsonl are."""
        if self.is_folder:
            return Path(self.target.removeprefix("file://")) / STATE_FOLDER
        return self.state or Path(STATE_FOLDER) / hashlib.sha256(self.target.encode()).hexdigest()[:16]

    @property
    def failures(self) -> Path:
        """The file that says what failed."""
        return self.state_folder / "failed.jsonl"


def materialize(
    job: Job, watch: Callable[[Tally], None] = lambda tally: None, stop: threading.Event | None = None
) -> Tally:
    """Make every file of the table that is not there yet; items that fail are counted and noted, and stop nothing.

    watch: called again and again with how far it is. stop: set it to have no more begun; the next run goes on.
    Raises InvalidInput for the job itself, Unavailable where another run has the target or none can work, OSError.
    """
    if job.is_folder and job.state:
        raise InvalidInput.at("state", str(job.state), f"none for a folder, which has its own in {STATE_FOLDER}/")
    stop = stop or threading.Event()
    with (
        open_table(job.table, job.models.default) as rows,
        closing(Journal.open_for(job.state_folder, "." if job.is_folder else job.target)) as journal,
        closing(Failures(job.failures)) as failures,
    ):
        sink = open_sink(job.target)
        if isinstance(sink, Folder):
            sink.remove_parts()
        tally = Tally(rows.total)

        def note(outcomes: list[Outcome]) -> None:
            journal.record(outcomes)
            failures.add(outcomes)
            tally.add(outcomes)
            watch(tally)
            if tally.refused_in_a_row > MAX_REFUSED:
                raise Unavailable(
                    f"the target takes nothing any more: {outcomes[-1].detail}", code="target_unavailable"
                )

        workers, count = _workers(job, rows.total)
        most = MAX_ROWS if rows.total is None else max(MIN_ROWS, min(MAX_ROWS, rows.total // (SHARES * count)))
        to_do = takewhile(lambda row: not stop.is_set(), rows.rows)  # many may come to no batch
        batches = Batcher(job.models, journal.claim, lambda outcome: note([outcome]), most).batches(to_do)
        for outcomes in workers.run(_begun(batches, journal), stop):
            note(outcomes)
        tally.stopped = stop.is_set()
    return tally


def _begun(batches: Iterator[Batch], journal: Journal) -> Iterator[Batch]:
    for batch in batches:
        journal.begin(batch)
        yield batch


def _workers(job: Job, total: int | None) -> tuple[Workers, int]:
    """Those who make, and how many they are: a process that would have no row is not started."""
    options = MakerOptions(job.absolute_target, job.factors and job.factors.absolute(), job.recheck)
    if job.ray is None:
        count = job.processes or available_cores()
        count = count if total is None else max(1, min(count, total))
        return Processes(count, options), count
    from weightloom.materialize.on_ray import OnRay

    return OnRay(job.ray, job.processes, options), job.processes or available_cores()
