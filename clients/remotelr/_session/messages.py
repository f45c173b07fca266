"""Messages to the user: a notifier that warns of each cause once, and the texts as pure functions."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from remotelr._session.journal import Outgoing
from remotelr.errors import warn
from remotelr.rules import Decision, Report, RulesError, RunSpec, policy_to_json
from remotelr.rules.transitions.lifecycle import describe_difference, difference

# The state's `stopped_by`, as a clause to follow a colon.
_STOP_REASONS = {
    "early_stopping": "the early stopping of its policy ended it",
    "target": "the target of its policy is reached",
    "guard": "the guard of its policy ended it",
}


class Notifier:
    """Prints messages with `say` and issues RemoteLRWarning."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._warned: set[str] = set()

    def say(self, message: str) -> None:
        self._say(f"RemoteLR: {message}")

    def warn(self, message: str) -> None:
        warn(message)

    def warn_once(self, cause: str, message: str) -> None:
        """Warn, unless this notifier has warned of `cause`."""
        if cause not in self._warned:
            self._warned.add(cause)
            self.warn(message)


def fallback(*, local: bool) -> str:
    """How training goes on without an answer."""
    return f"Training goes on {'by the same rules here' if local else 'with the last learning rate'}."


def stop_reason(decision: Decision | None) -> str:
    """Why `decision` ends the run, as a clause to follow a colon."""
    state = {} if decision is None else decision.state
    if state.get("stop"):
        return "the run received the command stop"
    # A spent budget leaves no `stopped_by` in the state.
    return _STOP_REASONS.get(str(state.get("stopped_by")), "the budget of its policy is spent")


def conflict_outcome(
    on_conflict: str | None, *, before: RunSpec | None, now: RunSpec, requested: RunSpec
) -> str | None:
    """The effect of `on_conflict` on the run's policy; None if it had none."""
    if on_conflict == "keep":
        kept = _difference(now, requested)
        return f"keeps its own policy: {describe_difference(kept)}." if kept else None
    if on_conflict not in ("replace", "restart") or before is None:
        return None
    changed = _difference(before, now)
    if not changed:
        return None
    state = "its state is kept" if on_conflict == "replace" else "its state is reset"
    return f"has a new policy, {state}: {describe_difference(changed, '{} was {}, is {}')}."


def changed_while_away(decision: Decision, local: Decision) -> str:
    return (
        f"the run was changed while the service was unreachable: epoch {decision.epoch + 1} has learning rate "
        f"{decision.learning_rate}, the local rules had {local.learning_rate}."
    )


def drift(decision: Decision) -> str:
    return (
        f"the decided learning rate of epoch {decision.epoch} was {decision.drift}, but the trainer used another one: "
        f"something else sets the optimizer's rate. Remove it, or pass it to RemoteLR as the policy."
    )


def old_rules(decision: Decision) -> str:
    return (
        f"this version of remotelr computes another rate than the service decided for epoch {decision.epoch}, so the "
        f"rate stays constant within each epoch. Install the version of the service"
    )


def repeated(key: str, status: str, epochs: int, epoch: int) -> str:
    return (
        f"run {key!r} was {status} with {epochs} epochs and begins again at epoch {epoch + 1}. The old epochs stay in "
        f"its log as superseded. Use another run= for a new training."
    )


def unknown_state(decision: Decision) -> str:
    return (
        f"this version of remotelr cannot read the service's state at epoch {decision.epoch}. Training follows the "
        f"service; while it is away, the last learning rate stays. Install the version of the service"
    )


def undelivered(key: str, left: Sequence[Outgoing], path: Path | None) -> str:
    reports = sum(isinstance(entry, Report) for entry in left)
    what, subject = (f"{reports} reports", "they are") if reports else ("the end", "it is")
    where = f"{subject} in {path} and will be delivered by the next start of this job" if path else f"{subject} lost"
    return f"{what} of run {key!r} did not reach the service: {where}"


def missing_metric(epoch: int, name: str, metrics: Iterable[str]) -> str:
    return (
        f"epoch {epoch + 1} has no metric `{name}`, which the policy monitors: the epoch is reported without it and "
        f"does not count for a plateau. Available metrics are: {','.join(metrics)}."
    )


def _difference(one: RunSpec, other: RunSpec) -> Mapping[str, list[Any]]:
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
