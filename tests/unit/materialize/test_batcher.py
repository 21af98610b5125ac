"""Batches: rows of one model together, within bounds."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.tables import MODEL
from weightloom.errors import InvalidInput, NotFound, WeightloomError
from weightloom.fabric import ModelSpec
from weightloom.materialize import batcher
from weightloom.materialize.batcher import Batcher
from weightloom.materialize.batches import Batch, Known, Outcome
from weightloom.materialize.models import Models
from weightloom.materialize.table import Row

OTHER = ModelSpec.model_validate({"name": "other", "seed": 1, "tensors": [{"name": "x", "shape": [1 << 14, 1 << 14]}]})


def rows(models: list[str | None], size: int = 10) -> Iterator[Row]:
    return (Row(number, f"{number}", b"{}", model, size) for number, model in enumerate(models, 1))


def batched(made: Iterator[Row], most: int = 256) -> tuple[list[Batch], list[Outcome]]:
    failed: list[Outcome] = []
    seen: set[str] = set()

    def claim(file: str, row: int) -> Known | None:
        if file in seen:
            raise InvalidInput.at("file", file, "another one")
        seen.add(file)
        return None

    return list(Batcher(Models([MODEL, OTHER]), claim, failed.append, most).batches(made)), failed


def test_rows_of_one_model_come_together() -> None:
    batches, failed = batched(rows(["demo", "other", MODEL.digest, None, "other", "demo"]))
    assert [[item.row for item in batch.items] for batch in batches] == [[1, 3, 6], [2, 5], [4]]
    assert set(batches[0].specs) == {"demo", MODEL.digest}
    assert ModelSpec.parse(batches[1].specs["other"]) == OTHER
    assert failed == []


def test_a_batch_has_at_most_so_many_rows_and_fewer_of_large_files() -> None:
    batches, _ = batched(rows(["demo", "other"] * 20), most=8)
    sizes = {name: [len(batch.items) for batch in batches if name in batch.specs] for name in ("demo", "other")}
    assert sizes == {"demo": [8, 8, 4], "other": [4] * 5}


@pytest.mark.parametrize("limit", ["HELD_BYTES", "HELD_ROWS"])
def test_what_waits_for_others_is_bounded(limit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batcher, limit, 10)
    taken = 0

    def counted() -> Iterator[Row]:
        nonlocal taken
        for row in rows([None, "demo"] * 50, size=1):
            taken += 1
            yield row

    made = Batcher(Models([MODEL]), lambda file, row: None, lambda outcome: None).batches(counted())
    given = 0
    for batch in made:
        given += len(batch.items)
        assert taken - given <= 11
    assert given == 100


def test_specs_of_models_that_wait_are_bounded_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """A table may name another model in each row."""
    large = [ModelSpec.model_validate(OTHER.model_dump() | {"name": f"model-{number}"}) for number in range(50)]
    monkeypatch.setattr(batcher, "HELD_BYTES", 5 * len(OTHER.model_dump_json()))
    taken = 0

    def counted() -> Iterator[Row]:
        nonlocal taken
        for row in rows([model.name for model in large], size=1):
            taken += 1
            yield row

    made = Batcher(Models(large), lambda file, row: None, lambda outcome: None).batches(counted())
    assert max(taken - given for given, _ in enumerate(made)) <= 6


def test_rows_that_cannot_be_made_are_told_and_the_others_go_on() -> None:
    twice = [*rows(["demo", "nobody", "nobody"]), Row(4, "1", b"{}", "demo", 1), (5, "x", NotFound("no"))]
    batches, failed = batched(iter(twice))  # type: ignore[arg-type]
    assert [item.row for item in batches[0].items] == [1]
    assert [(one.row, one.code) for one in failed] == [
        (2, "model_not_found"), (3, "model_not_found"), (4, "invalid_request"), (5, "model_not_found"),
    ]  # fmt: skip


def test_a_name_is_looked_up_once_and_a_failure_is_remembered() -> None:
    asked: list[str] = []

    def look_up(name: str) -> ModelSpec:
        asked.append(name)
        if name == "bad":
            raise WeightloomError("broken")
        return OTHER

    models = Models([MODEL], look_up)
    assert models.default == "demo"
    for _ in range(2):
        assert models.get("other").key == OTHER.digest
        with pytest.raises(WeightloomError, match="broken"):
            models.get("bad")
    assert asked == ["other", "bad"]
    with pytest.raises(InvalidInput, match="two specs"):
        Models([MODEL, MODEL])
