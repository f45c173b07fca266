"""Rates that are held until a time. The rules have no clock: here they say what is due to who has one."""

from datetime import datetime

from remotelr.rules.run.command import Command, OverrideKind
from remotelr.rules.run.model import Run
from remotelr.rules.run.overrides import first_undecided

# A time is compared in UTC and kept by databases, which near the ends of the calendar neither can do.
_FIRST_YEAR, _LAST_YEAR = 1970, 9998


def parse_timestamp(text: str) -> datetime:
    """The time that stands there as ISO 8601 has it. Raises ValueError, which says what is wrong with it."""
    try:
        read = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError("expected a time as ISO 8601 has it, such as 2026-12-24T18:00:00Z") from None
    if read.tzinfo is None:
        raise ValueError("a time needs an offset, or Z for UTC: replicas stand in several time zones")
    if not _FIRST_YEAR <= read.year <= _LAST_YEAR:
        raise ValueError(f"expected a time from {_FIRST_YEAR} to {_LAST_YEAR}")
    return read


def next_expiry(run: Run) -> datetime | None:
    """The next time at which `until_due` has something to say; None while no rate is held until a time."""
    return min((datetime.fromisoformat(time) for time in _expiry_times(run).values()), default=None)


def expired_override(run: Run, now: datetime) -> Command | None:
    """The command that ends a rate held until a time that has come, for who has a clock to append it; else None.

    now: with a time zone. Ask again after appending it: pin and one-shot may both have ended.
    """
    due = [held for held, time in _expiry_times(run).items() if datetime.fromisoformat(time) <= now]
    return Command(type="release", only=due[0], actor="remotelr", reason="until") if due else None


def _expiry_times(run: Run) -> dict[OverrideKind, str]:
    """The times until which rates are held by the first undecided epoch."""
    pin, one_shot = run.state.pin_until, run.state.one_shot_until
    if pin is None and one_shot is None and not run.state.overrides:
        return {}
    for order in run.state.overrides:
        if order.epoch > first_undecided(run):
            continue
        if order.one_shot is not None or order.ends == "one_shot" or order.releases:
            one_shot = order.until
        if order.learning_rate is not None or order.base is not None or order.ends == "pin" or order.releases:
            pin = order.until
    times: dict[OverrideKind, str | None] = {"pin": pin, "one_shot": one_shot}
    return {held: time for held, time in times.items() if time is not None}
