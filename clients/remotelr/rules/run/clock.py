"""The clock of a run's schedule, which a pause stops."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Clock:
    """Maps the run's position to that of its schedule, in the policy's unit.

    shift: total length of past pauses. since: the run's position at the pause; None while the clock runs.
    held: the run's position at which the held rate was in force.
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
        """The clock stopped at `at`; a stopped clock stays as it is."""
        return self if self.paused else Clock(shift=self.shift, since=at, held=held)

    def resuming(self, at: float) -> "Clock":
        """The clock started again at `at`."""
        return self if self.since is None else Clock(shift=self.shift + at - self.since)

    def to_json(self) -> dict[str, float]:
        """The members that differ from a clock that never stopped."""
        document = {"shift": self.shift} if self.shift else {}
        if self.since is not None and self.held is not None:
            document |= {"since": self.since, "held": self.held}
        return document

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> "Clock":
        return cls(**document)


RUNNING = Clock()
