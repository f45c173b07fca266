"""The clock of a run's schedule: it runs with the epochs (or steps), unless an operator pauses it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Clock:
    """How the position a schedule is asked for follows from where the run is. All in the policy's unit.

    shift: how long it has stood still so far.
    since: where in the run it was paused; None while it runs.
    held: where in the run the rate that is held was in force.
    """

    shift: float = 0.0
    since: float | None = None
    held: float | None = None

    @property
    def paused(self) -> bool:
        return self.since is not None

    def read(self, position: float) -> float:
        """The schedule's position when the run is at `position`."""
        return (position if self.held is None else self.held) - self.shift

    def pausing(self, at: float, held: float) -> "Clock":
        """Still from `at` on; a clock that stands still is not stopped a second time."""
        return self if self.paused else Clock(shift=self.shift, since=at, held=held)

    def resuming(self, at: float) -> "Clock":
        """Going on at `at` where it was stopped."""
        return self if self.since is None else Clock(shift=self.shift + at - self.since)

    def to_json(self) -> dict[str, float]:
        """What is not at rest."""
        document = {"shift": self.shift} if self.shift else {}
        if self.since is not None and self.held is not None:
            document |= {"since": self.since, "held": self.held}
        return document

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> "Clock":
        return cls(**document)


RUNNING = Clock()
