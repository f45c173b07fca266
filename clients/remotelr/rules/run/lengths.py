"""The length of a schedule compared with the length of its run: a forgotten unit gives a valid policy."""

from typing import Final

from remotelr.rules.policy.policy import Policy
from remotelr.rules.run.model import RunSpec
from remotelr.rules.schedules.base import span_of

# Below this a run is often a trial of a longer one.
_TOO_LONG: Final = 4
_TOO_SHORT: Final = 0.1
# A last rate below this share of the highest one is no longer meant to train.
_SPENT: Final = 0.02


def describe_length_mismatch(spec: RunSpec) -> str | None:
    """A message about a schedule that is far longer than its run, or has ended far earlier; None if it fits.

    Too long: more than four times the run. Too short: it ends in the first tenth of the run, and the rest has a rate
    below 2 % of the highest one. A schedule that begins again or depends on metrics fits every run, and so does any
    schedule while the run's length is unknown.

    Raises InvalidPolicy as `RunSpec.bound`.
    """
    epochs, per_epoch = spec.total_epochs, spec.steps_per_epoch
    totals = {"epoch": epochs, "step": None if epochs is None or per_epoch is None else epochs * per_epoch}
    unit = spec.policy.unit
    span, total = span_of(spec.policy.schedule), totals[unit]
    if span is None or total is None:
        return None
    if span > total * _TOO_LONG:
        effect = "only the beginning of the curve is used"
    elif span < total * _TOO_SHORT and _is_spent(spec.bound(), spec.first_learning_rate(), span, total):
        effect = "the rest of the run has the last rate of the curve"
    else:
        return None
    other = "step" if unit == "epoch" else "epoch"
    fitting = totals[other]
    action = "Correct the lengths of the schedule or the unit of the policy."
    if fitting is not None and fitting / 2 <= span <= fitting * 2:
        action = f'It fits the {_count(fitting, other)} of the run: set "unit": "{other}" in the policy.'
    return f"the schedule takes {_count(span, unit)} and the run has {_count(total, unit)}: {effect}. {action}"


def _is_spent(policy: Policy, learning_rate: float, span: float, total: float) -> bool:
    """Whether a small last rate holds after `span`. A warm-up ends high, and a period has no last rate."""
    state = policy.start(learning_rate)
    # Not at `span` itself: torch's one_cycle has its last rate only after its end.
    last = policy.learning_rate(state, 2 * span)
    highest = max(policy.learning_rate(state, span * part / 16) for part in range(17))
    return last == policy.learning_rate(state, total) and last < highest * _SPENT


def _count(number: float, unit: str) -> str:
    return f"{number:,.10g} {unit if number == 1 else f'{unit}s'}"
