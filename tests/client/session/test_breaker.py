"""A dead service costs little, and one that is back is noticed."""

from remotelr._session.breaker import FAILURES, Breaker


def after(failures: int, took_s: float = 0.0, now_s: float = 0.0) -> Breaker:
    breaker = Breaker()
    for _ in range(failures):
        breaker = breaker.failed(now_s - took_s, now_s)
    return breaker


def test_it_opens_after_three_failures_in_a_row():
    assert [after(failures).is_open for failures in range(5)] == [False, False, False, True, True]


def test_a_closed_breaker_allows_a_call_at_every_epoch():
    assert after(FAILURES - 1, took_s=5.0, now_s=5.0).allows(5.0)


def test_a_try_that_is_refused_at_once_is_made_with_every_epoch():
    assert after(10, took_s=0.001, now_s=100.0).allows(100.01)


def test_tries_that_take_long_take_no_more_than_a_tenth_of_the_time():
    """A thousand epochs of 10 ms, and a network that swallows every try for a whole second."""
    breaker, now_s, tried_s = after(FAILURES), 0.0, 0.0
    for _ in range(100_000):
        now_s += 0.01
        if breaker.allows(now_s):
            breaker = breaker.failed(now_s, now_s + 1.0)
            now_s, tried_s = now_s + 1.0, tried_s + 1.0

    assert 0.09 < tried_s / now_s < 0.1
