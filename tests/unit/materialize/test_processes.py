"""Processes that make: all batches are answered, whatever dies."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.tables import MODEL, BrokenMaker, DeadlyMaker, DyingMaker, LateMaker, row
from weightloom.errors import Unavailable
from weightloom.materialize.batches import Batch, Item, Outcome
from weightloom.materialize.maker import Maker, MakerOptions
from weightloom.materialize.workers import Processes

SPECS = {"demo": MODEL.model_dump_json().encode()}


def batch(*files: str, first: int = 1) -> Batch:
    rows = [(number, file) for number, file in enumerate(files, first)]
    items = [Item(number, file, json.dumps(row(number, file=file)).encode(), "demo") for number, file in rows]
    return Batch(items, SPECS)


def ended(processes: Processes, batches: Iterator[Batch], stop: threading.Event | None = None) -> list[Outcome]:
    return [outcome for some in processes.run(batches, stop or threading.Event()) for outcome in some]


def test_all_batches_are_made(tmp_path: Path) -> None:
    batches = (batch(*(f"{i}/{j}" for j in range(5)), first=5 * i) for i in range(20))
    outcomes = ended(Processes(2, MakerOptions(str(tmp_path))), batches)
    assert sorted(outcome.row for outcome in outcomes) == list(range(100))
    assert {outcome.state for outcome in outcomes} == {"made"}
    assert len(list(tmp_path.glob("[0-9]*/*"))) == 100


def test_an_item_that_kills_its_maker_is_tried_once_more_and_told(tmp_path: Path) -> None:
    options = MakerOptions(str(tmp_path))
    batches = [batch("a", "deadly", "b"), batch("c", "once", "d", first=4), batch("e", first=7)]
    outcomes = ended(Processes(1, options, DeadlyMaker), iter(batches))
    states = {outcome.file: outcome.state for outcome in outcomes}
    assert len(outcomes) == 7
    assert states.pop("deadly") == "failed"
    assert set(states.values()) <= {"made", "kept"}
    (failed,) = (outcome for outcome in outcomes if outcome.state == "failed")
    assert failed.code == "worker_died"
    assert "SIGKILL" in failed.detail
    assert all((tmp_path / file).exists() for file in states)


@pytest.mark.parametrize(
    ("maker", "told"), [(BrokenMaker, "no arithmetic"), (DyingMaker, "SIGKILL.* before it was ready")]
)
def test_workers_that_cannot_begin_end_the_run(maker: type[Maker], told: str, tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match=told):
        ended(Processes(2, MakerOptions(str(tmp_path)), maker), iter([batch("a")]))


def test_a_worker_that_dies_as_it_begins_is_replaced(tmp_path: Path) -> None:
    outcomes = ended(Processes(1, MakerOptions(str(tmp_path)), LateMaker), iter([batch("a")]))
    assert [outcome.state for outcome in outcomes] == ["made"]


def test_a_stop_finishes_what_has_begun_and_no_more(tmp_path: Path) -> None:
    stop, taken = threading.Event(), 0

    def batches() -> Iterator[Batch]:
        nonlocal taken
        for number in range(1000):
            taken += 1
            yield batch(f"{number}", first=number)

    outcomes = []
    for some in Processes(2, MakerOptions(str(tmp_path))).run(batches(), stop):
        outcomes += some
        if outcomes:
            stop.set()
    assert 0 < len(outcomes) <= taken < 1000
    assert {int(path.name) for path in tmp_path.iterdir() if path.is_file()} == {outcome.row for outcome in outcomes}
    assert list((tmp_path / ".weightloom/parts").iterdir()) == []
