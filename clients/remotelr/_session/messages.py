"""Whoever watches a training: what is told them, and that it is told once."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from remotelr._session.journal import Outgoing
from remotelr.errors import RemoteLRWarning
from remotelr.rules import Decision, Report, RulesError, RunSpec, policy_to_json
from remotelr.rules.transitions.lifecycle import describe_difference, difference


class Notifier:
    """say: how they are told of what is no warning."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._told: set[str] = set()

    def say(self, message: str) -> None:
        self._say(f"RemoteLR: {message}")

    def warn(self, message: str) -> None:
        warnings.warn(f"RemoteLR: {message}", RemoteLRWarning, stacklevel=2)

    def warn_once(self, cause: str, message: str) -> None:
        """Of a cause they have not been warned of."""
        if cause not in self._told:
            self._told.add(cause)
            self.warn(message)


# What in a policy ends a run, by the words of its state.
_ENDS = {
    "early_stopping": "nothing has improved for as long as its policy waits",
    "target": "the target of its policy is reached",
    "guard": "the guard of its policy says so",
}


def goes_on(*, by_the_rules: bool) -> str:
    """How training goes on without an answer."""
    return f"Training goes on {'by the same rules here' if by_the_rules else 'with the last learning rate'}."


def why_it_stops(decision: Decision | None) -> str:
    """Why a run ends that a decision ends, in words that go on after a colon."""
    state = {} if decision is None else decision.state
    if state.get("stop"):
        return "the run was told to stop"
    # A budget is nothing to remember: it is spent.
    return _ENDS.get(str(state.get("stopped_by")), "the budget of its policy is spent")


def came_of_conflict(on_conflict: str | None, *, before: RunSpec | None, now: RunSpec, asked: RunSpec) -> str | None:
    """What a run's policy is now that it was asked for with `on_conflict`; None where nobody needs to be told."""
    if on_conflict == "keep":
        kept = _difference(now, asked)
        return f"keeps its own policy: {describe_difference(kept)}." if kept else None
    if on_conflict not in ("replace", "restart") or before is None:
        return None
    changed = _difference(before, now)
    if not changed:
        return None
    state = "what it remembers is kept" if on_conflict == "replace" else "it remembers nothing"
    return f"has another policy now, {state}: {describe_difference(changed, '{} was {}, is {}')}."


def changed_meanwhile(theirs: Decision, ours: Decision) -> str:
    """That the service decides otherwise than a trainer that was alone."""
    return (
        f"the run was changed while it could not be reached: epoch {theirs.epoch + 1} has learning rate "
        f"{theirs.learning_rate}, the local rules had {ours.learning_rate}."
    )


def other_rate(theirs: Decision) -> str:
    """That the epoch before did not run with the rate it was to run with."""
    return (
        f"epoch {theirs.epoch} was to run with learning rate {theirs.drift}, and ran with another one: something else "
        f"sets the optimizer's rate. Take it away, or give it to RemoteLR as its policy."
    )


def older_rules(theirs: Decision) -> str:
    """That the rules here do not know what the service decides by."""
    return (
        f"the rules of this version of remotelr do not give the rate the service decided for epoch {theirs.epoch}, "
        f"which keeps its first rate: install the service's version"
    )


def newer_state(theirs: Decision) -> str:
    """That the rules here cannot read what the service remembers of the run, and could not go on without it."""
    return (
        f"the rules of this version of remotelr do not understand what the service remembers at epoch {theirs.epoch}. "
        f"Its decisions count; while it is away, the last learning rate stays. Install the service's version"
    )


def never_heard(key: str, left: Sequence[Outgoing], kept: Path | None) -> str:
    """Where lies what the service has not heard at the end."""
    reports = sum(isinstance(asked, Report) for asked in left)
    what, lie = (f"{reports} reports", "they lie") if reports else ("the end", "it lies")
    where = f"{lie} in {kept}, to be told when it is started again" if kept else "that is lost"
    return f"{what} of run {key!r} never reached the service: {where}"


def _difference(one: RunSpec, other: RunSpec) -> Mapping[str, list[Any]]:
    """Where the curves of two runs part."""
    return {} if _same_curve(one, other) else difference(_curve(one), _curve(other))


def _same_curve(one: RunSpec, other: RunSpec) -> bool:
    if policy_to_json(one.policy) != policy_to_json(other.policy):
        return False
    try:
        return one.bound() == other.bound()
    except RulesError:
        return False


def _curve(spec: RunSpec) -> Mapping[str, Any]:
    return {"policy": policy_to_json(spec.policy), "total_epochs": spec.total_epochs}
