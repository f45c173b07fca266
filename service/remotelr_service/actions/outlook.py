"""What rate a run will have, as far as that can be told before anything more is measured."""

from remotelr.rules import Run, rate_at


def expected_rate(run: Run, epoch: int) -> float:
    """The rate of `epoch`, not before `run.epoch`, if the schedule learns nothing until then."""
    if run.policy.unit == "epoch":
        position = float(epoch)
    else:
        # Without a known length the best guess is where the run stands.
        position = float((run.step or 0) + (epoch - run.epoch) * (run.spec.steps_per_epoch or 0))
    return rate_at(run.policy, run.state, epoch, position).learning_rate
