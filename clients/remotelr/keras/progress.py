"""How far an epoch has come."""

from dataclasses import dataclass


@dataclass(slots=True)
class Epoch:
    """Where the epoch stands, in batches and in optimizer steps.

    step: optimizer steps of the run before it. updates: what the optimizer had counted by then.
    batches_held: batches before it whose gradients wait to be applied. batches: begun so far.
    learning_rate: what it began with. set_to: the newest rate set in it. momentum: the newest one.
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
        """Updates made in this epoch before that batch."""
        return (self.batches_held + batch) // self.batches_per_step

    def step_after(self, updates: int) -> int:
        """Steps of the run by its end. updates: what the optimizer has counted by now.

        A training step of one's own may never move the optimizer's counter; then the batches count.
        """
        made = updates - self.updates
        return self.step + (made if made > 0 else self.steps_before(self.batches))
