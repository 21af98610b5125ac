"""What a transfer asks for next, and what it takes for its own file; no I/O."""

from __future__ import annotations

import pytest
from weightloom_client import WrongBits
from weightloom_client.protocol import Broken, Head, Part, Transfer


def test_a_transfer_asks_for_all_then_for_what_is_missing_of_the_same_file() -> None:
    transfer = Transfer()
    assert transfer.next_part() == Part(0, None, "")
    transfer.begins(Head('"a"', 100, 0, 100))
    transfer.received(30)
    assert transfer.next_part() == Part(30, 70, '"a"')
    transfer.begins(Head('"a"', 100, 30, 70))
    transfer.received(70)
    assert transfer.is_whole


def test_a_part_ends_where_it_was_to_end() -> None:
    transfer = Transfer(10, 20, '"a"')
    transfer.begins(Head('"a"', 100, 10, 10))
    transfer.received(10)
    assert transfer.is_whole


def test_a_reply_that_ends_early_is_broken_and_one_that_is_whole_is_not() -> None:
    transfer = Transfer()
    transfer.begins(Head('"a"', 5, 0, 5))
    transfer.received(4)
    with pytest.raises(Broken, match="ended at byte 4, before byte 5"):
        transfer.received(0)
    transfer.received(1)
    transfer.received(0)


@pytest.mark.parametrize(
    "head",
    [
        Head('"b"', 100, 30, 70),  # another file
        Head('"a"', 100, 0, 100),  # all of it again
        Head('"a"', 100, 30, 60),  # not to its end
        Head('"a"', 90, 30, 60),  # of another size
    ],
)
def test_what_was_not_asked_for_is_never_put_behind_what_has_come(head: Head) -> None:
    transfer = Transfer()
    transfer.begins(Head('"a"', 100, 0, 100))
    transfer.received(30)
    with pytest.raises(WrongBits):
        transfer.begins(head)
