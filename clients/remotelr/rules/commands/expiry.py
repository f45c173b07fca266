"""Expiry of overrides that end at a time. The rules have no clock: the caller passes the time."""

from datetime import datetime

from remotelr.rules.run.command import Command, OverrideKind
from remotelr.rules.run.model import Run
from remotelr.rules.run.overrides import first_undecided

# Near the ends of the calendar, conversion to UTC and database columns overflow.
_FIRST_YEAR, _LAST_YEAR = 1970, 9998


def parse_timestamp(text: str) -> datetime:
    """The time in ISO 8601. Raises ValueError with the reason."""
    try:
        read = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError("time must be ISO 8601, such as 2026-12-24T18:00:00Z") from None
    if read.tzinfo is None:
        raise ValueError("time must have an offset, or Z for UTC")
    if not _FIRST_YEAR <= read.year <= _LAST_YEAR:
        raise ValueError(f"time must be from {_FIRST_YEAR} to {_LAST_YEAR}")
    return read


def next_expiry(run: Run) -> datetime | None:
    """The next time at which an override expires; None if none ends at a time."""
    return min((datetime.fromisoformat(time) for time in _expiry_times(run).values()), default=None)


def expired_override(run: Run, now: datetime) -> Command | None:
    """The release of an override whose `until` has come, which the caller appends; else None.

    now: with a time zone. Call again after appending it: pin and one-shot may both have expired.
    """
    due = [kind for kind, time in _expiry_times(run).items() if datetime.fromisoformat(time) <= now]
    return Command(type="release", only=due[0], actor="remotelr", reason="until") if due else None


def _expiry_times(run: Run) -> dict[OverrideKind, str]:
    """The times at which the overrides in force by the first undecided epoch end."""
    pin, one_shot = run.state.pin_until, run.state.one_shot_until
    if pin is None and one_shot is None and not run.state.overrides:
        return {}
    for override in run.state.overrides:
        if override.epoch > first_undecided(run):
            continue
        if override.one_shot is not None or override.ends == "one_shot" or override.releases:
            one_shot = override.until
        sets_rate = override.learning_rate is not None or override.base is not None
        if sets_rate or override.ends == "pin" or override.releases:
            pin = override.until
    times: dict[OverrideKind, str | None] = {"pin": pin, "one_shot": one_shot}
    return {kind: time for kind, time in times.items() if time is not None}
