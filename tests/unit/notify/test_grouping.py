"""How long a channel waits between two messages."""

from __future__ import annotations

from mailwatch.notify.delivery import Grouping


def test_that_all_works_again_does_not_wait_but_twice_in_a_row_it_does() -> None:
    grouping = Grouping(10.0)
    for _ in range(7):
        grouping.note_sent()
    assert 200 < grouping.wait(20.0) <= 300
    assert grouping.wait(20.0, is_end=True) == 0
    assert 0 < grouping.wait(4.0, is_end=True) <= 6, "it waits for others that end with it"
    grouping.note_sent(is_end=True)
    assert 200 < grouping.wait(20.0, is_end=True) <= 300, "a target that flaps"
    grouping.note_sent()
    assert grouping.wait(20.0, is_end=True) == 0
