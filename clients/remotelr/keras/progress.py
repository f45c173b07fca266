"""The position within an epoch, in batches and in optimizer steps."""

from dataclasses import dataclass


@dataclass(slots=True)
class EpochProgress:
    """The progress of one epoch.
    number: of the epoch, 0-based. step: optimizer steps of the run before it. updates: the optimizer's counter then.
    batches_per_step: more than 1 with gradient accumulation. batches_held: batches before the epoch whose gradients
        are not applied yet. batches: batches begun so far.
    learning_rate: at the beginning. set_to: the newest rate set in the epoch. momentum: the newest momentum set.
    """

    number: int = 0
    step: int = 0
    updates: int = 0
    batches_per_step: int = 1
    batches_held: int = 0
    batches: int = 0
    learning_rate: float | None = None
    set_to: float | None = None
    momentum: float | None = None

    def steps_before(self, batch: int) -> int:
        """Optimizer steps made in this epoch before `batch`."""
        return (self.batches_held + batch) // self.batches_per_step

    def step_after(self, updates: int) -> int:
        """The run's optimizer steps; batches count if a custom training step never moves the counter `updates`."""
        made = updates - self.updates
        return self.step + (made if made > 0 else self.steps_before(self.batches))
