"""docs/scaling.md: its prices give its predictions, for the cases that the benchmark checks, and its plan."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/scaling.md").read_text()
UNITS = {"µs": 1e-6, "ns": 1e-9}


def rows(heading: str) -> list[list[str]]:
    """The cells of the table that begins with this line."""
    lines = PAGE[PAGE.index(heading) :].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("cost_model")


def prices_of(model: ModuleType) -> list[float]:
    """In the order of the model's units, each of which the page has."""
    told = {unit: float(price.split()[0]) * UNITS[price.split()[1]] for unit, price, *_ in rows("| unit | price |")}
    assert list(told) == list(model.UNITS)
    return list(told.values())


def in_step() -> float:
    return int(re.findall(r"Of the streams of one model that run at once (\d+) %", PAGE)[0]) / 100


def test_the_pages_predictions_follow_from_its_prices(model: ModuleType) -> None:
    prices = model.Prices(prices_of(model), in_step())
    shown = {name: float(predicted) for name, predicted, *_ in rows("| case | predicted, core-ms |")}
    assert shown == {case.name: pytest.approx(prices.of(case) * 1e3, rel=0.04) for case in model.CHECKED}


def test_the_pages_ratios_are_those_of_its_columns(model: ModuleType) -> None:
    for name, predicted, measured, ratio in rows("| case | predicted, core-ms |"):
        assert float(ratio) == pytest.approx(float(predicted) / float(measured), abs=0.02), name


def test_the_pages_plan_follows_from_its_prices(model: ModuleType) -> None:
    prices = model.Prices(prices_of(model), in_step())
    work = importlib.import_module("cost_plan").WORK
    shown = [float(cells[1].replace(",", "")) for cells in rows("| a request | core-ms |")]
    computed = [prices.of(case) * 1e3 for case in work.values()]
    assert sorted(shown) == pytest.approx(sorted(computed), rel=0.04)


def test_prices_are_found_again_in_costs_that_they_made(model: ModuleType) -> None:
    """What is drawn once for several requests is told by the tiles of a pass."""
    each = np.array([2e-4, 4e-5, 1e-9, 1e-10, 7e-11, 4e-10, 5e-10])
    tiles = {case: 12.0 if case == model.MANY else 1.0 for case in model.FITTED}
    costs = {case: model.Cost(float(each @ case.counts(passed)), 1.0, passed) for case, passed in tiles.items()}
    found = model.Prices.fitted(costs)
    assert found.each == pytest.approx(each, rel=1e-6)
    assert found.in_step == 12 / 16
