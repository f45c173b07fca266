"""The command `extend`. The formulas are in `composition.extended`."""

from dataclasses import replace
from math import isfinite

from remotelr.rules.composition.extended import Extended
from remotelr.rules.errors import InvalidCommand, InvalidPolicy
from remotelr.rules.policy.codec import policy_from_json, policy_to_json
from remotelr.rules.run.command import Command
from remotelr.rules.run.model import Run, RunSpec
from remotelr.rules.transitions.decide import start_position


def extend_spec(run: Run, command: Command, first: int) -> RunSpec:
    """The run's spec with `command.total` epochs; the curve from epoch `first` on is stretched to that end.

    Raises InvalidCommand if the run has no length, or if the new end is not after `first`.
    """
    spec, total = run.spec, command.total
    if total is None or total <= first:
        raise InvalidCommand(f"total must be > {first}, the first undecided epoch, got {total!r}", field="total")
    scale = 1 if run.policy.unit == "epoch" else spec.steps_per_epoch
    if spec.total_epochs is None or scale is None:
        missing = "total_epochs" if spec.total_epochs is None else "steps_per_epoch"
        raise InvalidCommand(f"extend needs the {missing} of the run; set it with the run", field="total")
    place, old, new = start_position(run, first), float(spec.total_epochs * scale), float(total * scale)
    if place >= new:
        # Reported steps may exceed epochs * steps_per_epoch.
        raise InvalidCommand(
            f"total must end after step {place:.0f}, which is reached; {total} epochs end at step {new:.0f}",
            field="total",
        )
    at = max(run.state.clock_at(run.policy, first, place).read(place), 0.0)
    node = _extended_schedule(run, command, at, old=old, new=new, place=place)
    longer = replace(spec, policy=replace(run.policy, schedule=node), total_epochs=total)
    try:
        # The stored policy must be readable: a document has a maximum depth.
        policy_from_json(policy_to_json(longer.policy))
    except InvalidPolicy as error:
        raise InvalidCommand(f"the run was extended too often: {error.reason}", field="total") from None
    return longer


def _extended_schedule(run: Run, command: Command, at: float, *, old: float, new: float, place: float) -> Extended:
    """at: position on the curve. place: position in the run; pauses make them differ."""
    schedule, rest = run.policy.schedule, new - place
    match command.continuity:
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
