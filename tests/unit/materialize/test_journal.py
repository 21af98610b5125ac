"""The journal: what it knows after any end of a run."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from weightloom.errors import InvalidInput, Unavailable
from weightloom.materialize import journal as module
from weightloom.materialize.batches import Batch, Item, Known, Outcome
from weightloom.materialize.journal import Journal


def made(file: str, etag: str = "e") -> Outcome:
    return Outcome(1, file, "made", etag, 3, "s")


def opened(folder: Path, target: str = ".") -> closing[Journal]:
    return closing(Journal.open_for(folder, target))


def test_what_is_recorded_is_known_to_the_next_run(tmp_path: Path) -> None:
    with opened(tmp_path) as journal:
        assert journal.claim("a", 1) is None
        assert journal.claim("b", 2) is None
        journal.record([made("a"), Outcome(2, "b", "failed", code="internal")])
    with opened(tmp_path) as journal:
        assert journal.claim("b", 1) is None
        assert journal.claim("a", 2) == Known("e", 3, "s")


def test_a_file_belongs_to_one_row_of_a_run(tmp_path: Path) -> None:
    for _ in range(2):
        with opened(tmp_path) as journal:
            journal.claim("a", 1)
            with pytest.raises(InvalidInput, match="'a', as row 1 has it"):
                journal.claim("a", 2)


def test_two_runs_do_not_share_a_target(tmp_path: Path) -> None:
    with opened(tmp_path), pytest.raises(Unavailable, match="another run") as told:
        Journal.open_for(tmp_path, ".")
    assert told.value.code == "target_in_use"


def test_a_journal_is_of_one_target(tmp_path: Path) -> None:
    with opened(tmp_path, "s3://a/b"):
        pass
    with pytest.raises(InvalidInput, match="s3://a/b"):
        Journal.open_for(tmp_path, "s3://c/d")


def test_a_journal_of_a_newer_version_is_told_and_left_alone(tmp_path: Path) -> None:
    with opened(tmp_path):
        pass
    with closing(sqlite3.connect(tmp_path / "journal.sqlite3")) as db:
        db.execute(f"PRAGMA user_version = {module.VERSION + 1}")
    before = (tmp_path / "journal.sqlite3").read_bytes()
    with pytest.raises(InvalidInput, match=r"journal\.sqlite3: got version 2, expected 1: a newer weightloom"):
        Journal.open_for(tmp_path, ".")
    assert (tmp_path / "journal.sqlite3").read_bytes() == before


def test_that_a_file_may_be_written_over_is_on_disk_before_it_is(tmp_path: Path) -> None:
    with opened(tmp_path) as journal:
        journal.claim("a", 1)
        journal.record([made("a")])
    with opened(tmp_path) as journal:
        batch = Batch([Item(1, "a", b"", None, journal.claim("a", 1))], {})
        done: list[str] = []
        journal._db.set_trace_callback(done.append)
        journal.begin(batch)
        journal._db.set_trace_callback(None)
    begun = [word for statement in done for word in ("= FULL", "UPDATE", "COMMIT", "= NORMAL") if word in statement]
    assert begun == ["COMMIT", "= FULL", "UPDATE", "COMMIT", "= NORMAL"]  # in a transaction it would be ignored


def test_what_is_no_journal_is_told(tmp_path: Path) -> None:
    (tmp_path / "journal.sqlite3").write_bytes(b"x" * 5000)
    with pytest.raises(Unavailable, match=r"not a database.*without this file"):
        Journal.open_for(tmp_path, ".")


def test_a_full_disk_is_told(tmp_path: Path) -> None:
    with opened(tmp_path) as journal:
        journal._db.execute("PRAGMA max_page_count = 6")
        names = (f"{number}" * 100 for number in range(10_000))
        with pytest.raises(Unavailable, match="full") as told:
            sum(journal.claim(name, 1) is None for name in names)
        assert told.value.code == "target_unavailable"


def killed(folder: Path, file: str) -> None:
    """A run that records a file and is gone before the next sync."""
    journal = Journal.open_for(folder, ".")
    journal.claim(file, 1)
    journal.record([made(file)])
    journal._db.close()


def test_what_was_not_synced_is_sure_unless_the_machine_has_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(tmp_path) as journal:
        journal.claim("old", 1)
        journal.record([made("old")])
    killed(tmp_path, "new")
    with opened(tmp_path) as journal:
        assert journal.claim("new", 1) == Known("e", 3, "s", is_sure=True)
    killed(tmp_path, "newer")
    monkeypatch.setattr(module, "_boot_id", lambda: "another")
    for _ in range(2):  # and the doubt stays until somebody has looked
        journal = Journal.open_for(tmp_path, ".")
        assert [journal.claim(file, 1).is_sure for file in ("old", "new", "newer")] == [True, True, False]
        journal._db.close()
    with opened(tmp_path) as journal:
        journal.claim("newer", 1)
        journal.record([Outcome(1, "newer", "kept", "e", 3, "s")])
    with opened(tmp_path) as journal:
        assert journal.claim("newer", 1).is_sure


def test_it_syncs_from_time_to_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    syncs: list[None] = []
    monkeypatch.setattr(module, "_sync", lambda folder: syncs.append(None))
    monkeypatch.setattr(module, "SYNC_SECONDS", 0.0)
    with opened(tmp_path) as journal:
        for number in range(3):
            journal.claim(f"{number}", number)
            journal.record([made(f"{number}")])
            if journal._syncing is not None:
                journal._syncing.join()
        assert len(syncs) >= 2
    with closing(sqlite3.connect(tmp_path / "journal.sqlite3")) as db:
        assert db.execute(
            "SELECT max(sync) <= (SELECT value + 0 FROM state WHERE key = 'synced') FROM files"
        ).fetchone()[0]


def test_a_folder_that_is_gone_when_it_is_synced_is_told(tmp_path: Path) -> None:
    journal = Journal.open_for(tmp_path / "out", ".")
    shutil.rmtree(tmp_path / "out")
    with pytest.raises(Unavailable, match="No such file") as told:
        journal.close()
    assert told.value.code == "target_unavailable"
