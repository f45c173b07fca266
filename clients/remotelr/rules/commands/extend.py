"""What `extend` makes of a run's curve. The formulas stand with the node it makes: `extended`."""

from dataclasses import replace
from math import isfinite

from remotelr.rules.composition.extended import Extended
from remotelr.rules.errors import InvalidCommand, InvalidPolicy
from remotelr.rules.policy.codec import policy_from_json, policy_to_json
from remotelr.rules.run.command import Command
from remotelr.rules.run.model import Run, RunSpec
from remotelr.rules.transitions.decide import start_position


def extend_spec(run: Run, order: Command, first: int) -> RunSpec:
    """The run's spec with `order.total` epochs, and the rest of its curve, from epoch `first` on, brought to that end.

    Raises InvalidCommand where the run never said how long it was to be, or that many epochs, or their steps, are over.
    """
    spec, total = run.spec, order.total
    if total is None or total <= first:
        raise InvalidCommand(
            f"{total!r} epochs do not reach beyond epoch {first}, the first that is not decided", field="total"
        )
    scale = 1 if run.policy.unit == "epoch" else spec.steps_per_epoch
    if spec.total_epochs is None or scale is None:
        missing = "total_epochs" if spec.total_epochs is None else "steps_per_epoch"
        raise InvalidCommand(f"the run never gave its {missing}, so its curve has no end to move", field="total")
    place, old, new = start_position(run, first), float(spec.total_epochs * scale), float(total * scale)
    if place >= new:
        # Steps are what was reported, and may be more than the run's lengths would have it.
        raise InvalidCommand(f"{total} epochs end at step {new:.0f}, and step {place:.0f} is reached", field="total")
    at = max(run.state.clock_at(run.policy, first, place).read(place), 0.0)
    node = _extended_schedule(run, order, at, old=old, new=new, place=place)
    longer = replace(spec, policy=replace(run.policy, schedule=node), total_epochs=total)
    try:
        # What is stored must be read again, and a document has an end of its own.
        policy_from_json(policy_to_json(longer.policy))
    except InvalidPolicy as error:
        raise InvalidCommand(f"the run was extended too often: {error.reason}", field="total") from None
    return longer


def _extended_schedule(run: Run, order: Command, at: float, *, old: float, new: float, place: float) -> Extended:
    """at: where on the curve the run stands. place: where in the run; they differ by what it was paused."""
    schedule, rest = run.policy.schedule, new - place
    match order.continuity:
        case "keep_fraction":
            return Extended(schedule=schedule, at=at, position=at, speed=max(old - at, 0.0) / rest)
        case "restart":
            return Extended(schedule=schedule, at=at, position=0.0, speed=old / rest)
        case "keep_lr":
            position = at * old / new
            now = run.policy.raw_learning_rate(run.state.schedule, at)
            there = run.policy.raw_learning_rate(run.state.schedule, position)
            gain = now / there if there > 0 else 1.0
            gain = min(gain, 1e6) if isfinite(gain) else 1.0
            return Extended(schedule=schedule, at=at, position=position, speed=old / new, gain=gain)
