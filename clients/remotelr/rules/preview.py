"""The curve of a policy without a run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from remotelr.rules.policy.policy import Policy
from remotelr.rules.run.model import RunSpec
from remotelr.rules.schedules.base import Binding, Point


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """The curve of a policy, one value for each position of its unit. momentum: None where it has none."""

    learning_rates: Sequence[float]
    momentum: Sequence[float] | None


def preview(
    policy: Policy,
    initial_learning_rate: float | None,
    count: int,
    start: int = 0,
    metrics: Sequence[Mapping[str, float]] = (),
    *,
    steps_per_epoch: int = 1,
    total: int | None = None,
) -> Preview:
    """The rates at `count` positions of the policy's unit, from position `start` on.

    initial_learning_rate: the trainer's rate; needed if the policy has none.
    metrics: what epoch 0, 1, 2… would report, for what looks at them; later epochs report no metric.
    steps_per_epoch: positions of one epoch if the unit is the step.
    total: the length of the run in the policy's unit; without it the run ends with the preview.

    Raises InvalidPolicy if the policy needs a value that is missing.
    """
    spec = RunSpec(policy=policy, initial_learning_rate=initial_learning_rate)
    bound = policy.bind(Binding(initial_learning_rate, start + count if total is None else total))
    state = bound.start(spec.first_learning_rate())
    length = 1 if bound.unit == "epoch" else steps_per_epoch
    rates: list[float] = []
    momenta: list[float | None] = []
    reported = 0
    for position in range(start, start + count):
        while reported < min(position // length, len(metrics)):
            state = bound.observe(state, Point(float(reported * length), metrics[reported]))
            reported += 1
        if position > start and position % length == 0 and position // length > reported:
            state = bound.observe(state, Point(float(position - length), {}))
        rates.append(bound.learning_rate(state, float(position)))
        momenta.append(bound.momentum(state, float(position)))
    known = [momentum for momentum in momenta if momentum is not None]
    return Preview(learning_rates=rates, momentum=known if len(known) == len(rates) and known else None)
