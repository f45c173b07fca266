"""Cursors of the stream of all runs: the received events and the gaps that may still be filled."""

import random

import pytest

from remotelr_service.live import hub


def test_a_cursor_contains_exactly_the_passed_events():
    rng = random.Random(1)
    for _ in range(300):
        passed = rng.sample(range(1, 30), rng.randrange(1, 20))
        cursor = hub.Cursor(0)
        for position in passed:
            cursor = cursor.advance(position)

        assert [position in passed for position in range(1, 40)] == [cursor.contains(each) for each in range(1, 40)]
        assert cursor == hub.Cursor.parse(cursor.to_text())


def test_holes_in_which_nothing_can_come_are_forgotten():
    mine = hub.Cursor(0).advance(3).advance(7).advance(20)
    theirs = hub.Cursor(10, ((5, 5),))

    assert "20!1-2,4-6,8-19" == mine.to_text()
    assert "20!5-5,11-19" == mine.settle(theirs).to_text()


@pytest.mark.parametrize(
    "written", ["", "1!", "!1-2", "1!2", "1!3-2", "1!1-2,", "1.5", "²", "1\n", "1!" + "1-2," * 64 + "1-2"]
)
def test_an_invalid_cursor_is_not_read(written: str):
    assert hub.Cursor.parse(written) is None
