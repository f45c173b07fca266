"""When the client asks again: pure, the clock and the jitter are arguments."""

import pytest

from remotelr._http.retry import Backoff, Failure, Retries, retry_after_s


def pauses(failures: list[Failure], *, remaining_s: float = 60.0, jitter: float = 1.0) -> list[float | None]:
    standing, seen = Retries(), []
    for failure in failures:
        standing = standing.after(failure, remaining_s=remaining_s, jitter=jitter)
        seen.append(standing.pause_s)
    return seen


def test_the_bound_of_the_pauses_doubles_up_to_its_cap():
    assert pauses([Failure(reason="refused")] * 7) == [0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0]


def test_a_pause_lies_anywhere_below_its_bound():
    assert pauses([Failure(reason="refused")] * 2, jitter=0.0) == [0.0, 0.0]


def test_a_reused_connection_that_broke_is_replaced_at_once_and_only_once():
    broken = Failure(reason="reset", reused=True)

    assert pauses([broken, broken, broken]) == [0.0, 0.2, 0.4]


def test_retry_after_is_waited_for_with_jitter_on_top():
    assert pauses([Failure(reason="busy", retry_after_s=1.0)], jitter=0.5) == [1.05]


def test_a_retry_after_beyond_the_budget_gives_up_at_once():
    assert pauses([Failure(reason="busy", retry_after_s=3600.0)], remaining_s=5.0) == [None]


def test_no_pause_outlives_the_budget():
    assert pauses([Failure(reason="refused")], remaining_s=0.12) == [None]


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("2", 2.0), (" 7 ", 7.0), (None, None), ("-1", None), ("1e3", None), ("Fri, 20 Nov 2026 22:00:00 GMT", None)],
)
def test_retry_after_is_read_as_whole_seconds_or_not_at_all(header, seconds):
    assert seconds == retry_after_s(header)


def test_a_thousand_failures_do_not_overflow_the_pause():
    assert Backoff().pause_s(1000, jitter=1.0) == 2.0
