"""What a process remembers of models: never what it was told is gone, and no more than fits."""

from __future__ import annotations

import pytest
from weightloom.fabric import ModelSpec
from weightloom.registry import summarize
from weightloom.registry.postgres import remembered
from weightloom.registry.postgres.remembered import Remembered, RememberedModels


def model(name: str, changes: int = 0, tensors: int = 1) -> Remembered:
    values = [{"name": f"t{i}", "shape": [4]} for i in range(tensors)]
    spec = ModelSpec.from_value({"name": name, "seed": 1, "tensors": values})
    return Remembered(summarize(spec, "now"), spec, changes)


def look(models: RememberedModels, changes: int, *there: Remembered) -> list[str]:
    """A look at a database that has these models; what was asked for."""
    asked = models.to_check(changes, changes)
    models.checked(asked, {one.summary.digest: "resident" for one in there}, changes)
    return list(asked)


def test_a_change_is_followed_by_one_question_about_what_was_read_before_it() -> None:
    models, a, b = RememberedModels(), model("a"), model("b")
    models.put(a)
    models.put(b)
    assert look(models, 0) == []
    assert set(look(models, 1, a)) == {a.summary.digest, b.summary.digest}
    assert models.get("b") is models.get(b.summary.digest) is None
    kept = models.get("a")
    assert kept is not None
    assert kept.summary.residency == "resident"
    assert look(models, 1) == []


def test_what_was_read_before_a_deletion_and_comes_after_it_is_not_kept() -> None:
    models, a = RememberedModels(), model("a", changes=3)
    models.put(a)
    models.forget(a.summary.digest, 4)
    models.put(a)
    assert models.get("a") is None
    models.put(model("a", changes=4))
    assert models.get("a") is not None


def test_a_deletion_here_does_not_hide_what_others_changed_before_it() -> None:
    models, mine, theirs = RememberedModels(), model("mine"), model("theirs")
    models.put(mine)
    models.put(theirs)
    look(models, 0)
    models.forget(mine.summary.digest, 2)  # the first change was somebody else's
    assert look(models, 2) == [theirs.summary.digest]


def test_a_question_that_was_not_answered_is_asked_again() -> None:
    models, a = RememberedModels(), model("a")
    models.put(a)
    assert models.to_check(1, 1) == models.to_check(1, 1) == {a.summary.digest: None}


def test_what_was_used_longest_ago_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remembered, "KEPT_WEIGHT", 20)
    models = RememberedModels()
    for name in "abcd":  # each weighs 5
        models.put(model(name))
    models.get("a")
    models.put(model("e"))
    assert [name for name in "abcde" if models.get(name)] == ["a", "c", "d", "e"]
    models.put(model("large", tensors=100))
    assert [name for name in ("a", "c", "d", "e", "large") if models.get(name)] == ["a", "c", "d", "e"]
