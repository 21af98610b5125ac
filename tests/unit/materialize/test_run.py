"""One run, as a program calls it."""

from __future__ import annotations

import multiprocessing
import threading
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet
from support.tables import MODEL, row, w_of, write_lines
from weightloom.errors import InvalidInput
from weightloom.materialize import Job, Models, Tally, materialize
from weightloom.materialize.journal import Journal

MODELS = Models([MODEL])


def test_a_table_in_parquet_gives_the_files_of_one_in_json(tmp_path: Path) -> None:
    numbers = range(40)
    write_lines(tmp_path / "t.jsonl", (row(number) for number in numbers))
    columns = {f"w.{name}": [w_of(number)[name] for number in numbers] for name in ("a", "b")}
    made = {"file": [f"v/{number}.safetensors" for number in numbers]} | columns
    parquet.write_table(pa.table(made), tmp_path / "t.parquet")
    seen: list[int | None] = []
    for table in ("t.jsonl", "t.parquet"):
        job = Job(str(tmp_path / table), str(tmp_path / f"of-{table}"), MODELS, processes=1)
        tally = materialize(job, lambda tally: seen.append(tally.total))
        assert (tally.total, tally.made, tally.failed, tally.stopped) == (40, 40, 0, False)
        assert tally.bytes == sum(path.stat().st_size for path in (tmp_path / f"of-{table}/v").iterdir())
    assert set(seen) == {40}
    for number in numbers:
        one, other = (tmp_path / f"of-{table}/v/{number}.safetensors" for table in ("t.jsonl", "t.parquet"))
        assert one.read_bytes() == other.read_bytes()


def test_names_that_are_too_long_do_not_end_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("weightloom.materialize.run.MAX_REFUSED", 10)
    write_lines(tmp_path / "t.jsonl", [*(row(n, file=f"{n}-{'n' * 250}.st") for n in range(100, 150)), row(1)])
    tally = materialize(Job(str(tmp_path / "t.jsonl"), str(tmp_path / "out"), MODELS, processes=1))
    assert (tally.made, tally.failed) == (1, 50)


def test_a_run_that_is_to_stop_before_it_begins_makes_nothing(tmp_path: Path) -> None:
    write_lines(tmp_path / "t.jsonl", [row(1)])
    stop = threading.Event()
    stop.set()
    tally = materialize(Job(str(tmp_path / "t.jsonl"), str(tmp_path / "out"), MODELS, processes=1), stop=stop)
    assert (tally.done, tally.stopped) == (0, True)


def test_a_stop_is_heeded_among_bad_rows_too(tmp_path: Path) -> None:
    write_lines(tmp_path / "t.jsonl", ["no JSON"] * 1000)
    stop = threading.Event()
    job = Job(str(tmp_path / "t.jsonl"), str(tmp_path / "out"), MODELS, processes=1)
    tally = materialize(job, lambda tally: stop.set() if tally.failed == 10 else None, stop)
    assert (tally.failed, tally.stopped) == (10, True)


def test_parts_of_a_killed_run_are_removed(tmp_path: Path) -> None:
    write_lines(tmp_path / "t.jsonl", [row(1)])
    parts = tmp_path / "out/.weightloom/parts"
    parts.mkdir(parents=True)
    (parts / "left").write_bytes(b"x")
    materialize(Job(str(tmp_path / "t.jsonl"), str(tmp_path / "out"), MODELS, processes=1))
    assert list(parts.iterdir()) == []


def test_a_folder_has_a_state_of_its_own(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="state"):
        materialize(Job("t.jsonl", str(tmp_path), state=tmp_path))


def test_a_row_that_changes_back_after_a_killed_run_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The killed run has put the other file in place, and did not live to tell."""
    path, job = tmp_path / "t.jsonl", Job(str(tmp_path / "t.jsonl"), str(tmp_path / "out"), MODELS, processes=1)
    write_lines(path, [row(1)])
    materialize(job)
    before = (tmp_path / "out/v/1.safetensors").read_bytes()
    write_lines(path, [row(1, w=w_of(2))])
    with monkeypatch.context() as patched:
        patched.setattr(Journal, "record", lambda self, outcomes: outcomes and _interrupt())
        patched.setattr(Journal, "close", lambda self: self._db.close())
        with pytest.raises(KeyboardInterrupt):
            materialize(job)
    assert (tmp_path / "out/v/1.safetensors").read_bytes() != before
    write_lines(path, [row(1)])
    assert materialize(job).made == 1
    assert (tmp_path / "out/v/1.safetensors").read_bytes() == before


def _interrupt() -> None:
    raise KeyboardInterrupt


def test_no_more_processes_start_than_there_are_rows(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "t.jsonl", [row(1), row(2)])
    most = 0

    def watch(tally: Tally) -> None:
        nonlocal most
        most = max(most, len(multiprocessing.active_children()))

    job = Job(str(path), str(tmp_path / "out"), MODELS, processes=8)
    assert materialize(job, watch).made == 2
    assert most == 2
