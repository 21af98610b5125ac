"""``weightloom materialize``: a file for each row of a table, by many processes or on Ray."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from weightloom_client import Client, ModelNotFound

from weightloom.cli import options
from weightloom.cli.batch_progress import shown_progress
from weightloom.cli.output import console
from weightloom.errors import NotFound
from weightloom.fabric import ModelSpec
from weightloom.materialize import Job, Models, Tally
from weightloom.materialize import materialize as run
from weightloom.registry import Registry
from weightloom.registry.blobs import FACTORS_FOLDER

__all__ = ["materialize"]

Table = Annotated[str, typer.Argument(help="JSON lines (.jsonl, .ndjson) or Parquet (.parquet): a file, or a URL.")]
Target = Annotated[str, typer.Argument(help="A folder, or a URL that fsspec knows (s3://bucket/folder …).")]
ModelFiles = Annotated[
    list[Path] | None, typer.Option("--model", "-m", help="Spec's JSON file, for rows that name it; may be repeated.")
]
Count = Annotated[int | None, typer.Option(min=1, max=1024, help="Worker processes; default: one for each core.")]
Ray = Annotated[str | None, typer.Option(help="Work on Ray: a cluster's address, auto, or local to start one here.")]
State = Annotated[Path | None, typer.Option(help="Folder of the journal, for a URL; default: in .weightloom/ here.")]
Recheck = Annotated[bool, typer.Option("--recheck", help="Read again, and compare, what earlier runs have made.")]


def materialize(
    table: Table,
    target: Target,
    model: ModelFiles = None,
    processes: Count = None,
    ray: Ray = None,
    state: State = None,
    recheck: Recheck = False,
    url: options.Url = None,
    data_dir: options.DataDir = options.DEFAULT_DATA_DIR,
) -> None:
    """Write the file of each row of a table: what POST /fabricate would send, verified.

    Killed at any time and started again, it goes on where it was. Exit code 1 if an item failed.
    """
    with ExitStack() as stack:
        look_up = _look_up(stack, url, data_dir)
        models = Models([options.spec_and_w_from_file(path)[0] for path in model or []], look_up)
        job = Job(table, target, models, processes, ray, state, data_dir / FACTORS_FOLDER, recheck)
        number = list[int]()
        with _stopping(number) as stop, shown_progress() as watch:
            tally = run(job, watch, stop)
    _tell(job, tally)
    if number:
        sys.exit(128 + number[0])
    raise typer.Exit(1 if tally.failed else 0)


def _look_up(stack: ExitStack, url: str | None, data_dir: Path) -> Callable[[str], ModelSpec]:
    """What finds a model that no option gives: a server, or the local registry, opened when a row asks for it."""

    @cache
    def client() -> Client:
        return stack.enter_context(options.client_of(str(url)))

    @cache
    def registry() -> Registry:
        return stack.enter_context(options.local_engine(data_dir)).registry

    def from_server(name: str) -> ModelSpec:
        try:
            return client().get_spec(name)
        except ModelNotFound as error:
            raise NotFound(str(error)) from error

    return from_server if url else lambda name: registry().load(registry().find(name))


@contextmanager
def _stopping(numbers: list[int]) -> Iterator[threading.Event]:
    """SIGINT and SIGTERM set the event, and are noted; a second one ends the program at once."""
    stop = threading.Event()

    def handle(number: int, frame: object) -> None:
        if numbers:
            sys.exit(128 + number)
        numbers.append(number)
        stop.set()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _tell(job: Job, tally: Tally) -> None:
    out = console(stderr=True)
    rate = f"{tally.made / max(tally.seconds, 1e-9):,.0f} items/s"
    out.print(f"{escape(job.target)}: {tally.made:,} made ({tally.bytes:,} bytes, {rate}), {tally.kept:,} kept")
    if tally.failed:
        out.print(f"[bold red]{tally.failed:,} failed[/]: {escape(str(job.failures))} says which and why")
    if tally.stopped:
        out.print("stopped before the end: the same command goes on from here")
