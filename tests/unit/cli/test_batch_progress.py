"""How far a batch run is, as people see it."""

from __future__ import annotations

import sys
import time

import pytest
from weightloom.cli import batch_progress
from weightloom.cli.batch_progress import shown_progress
from weightloom.materialize import Tally


def tally(made: int) -> Tally:
    return Tally(total=2000, made=made, failed=3, bytes=made * 1_000_000, began=time.monotonic() - 10)


def test_without_a_terminal_there_is_a_line_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with shown_progress() as watch:
        watch(tally(100))
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(batch_progress, "LINE_SECONDS", 0.0)
    with shown_progress() as watch:
        watch(tally(997))
    said = capsys.readouterr().err
    assert said.startswith("1,000 of 2,000: 100 items/s, 100 MB/s, 3 failed, 10 s left")
    with shown_progress() as watch:
        watch(Tally())
    assert capsys.readouterr().err.startswith("0: 0 items/s")


def test_on_a_terminal_there_is_a_bar(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    with shown_progress() as watch:
        watch(tally(997))
    assert "1000/2000" in (said := capsys.readouterr().err)
    assert "100 items/s, 100 MB/s, 3 failed" in said
