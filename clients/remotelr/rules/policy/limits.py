"""Limits: the rates and changes that the owner of an experiment permits for its runs."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from remotelr.rules.composition.modifiers import check_bounds
from remotelr.rules.values.fields import Range, RateOrZero, check_fields
from remotelr.rules.values.floats import clamp

Change = Annotated[float, Range(least=1, most=1e6)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds on what a run may train with, whatever its policy and its operators say.

    min_lr, max_lr: every decided rate is inside them; they win over the policy's own bounds. A command whose rate
        lies outside is refused.
    max_change: the largest factor, >= 1, by which a single command may change the rate in force, up or down.
        What goes back to the policy's own curve (release, resume_schedule) is never refused.

    Raises InvalidPolicy for values that cannot be bounds.
    """

    min_lr: RateOrZero | None = None
    max_lr: RateOrZero | None = None
    max_change: Change | None = None

    def __post_init__(self) -> None:
        check_fields(self)
        check_bounds(self.min_lr, self.max_lr)

    def bounded(self, learning_rate: float) -> float:
        """The rate inside the limits."""
        return clamp(learning_rate, self.min_lr, self.max_lr)

    def to_json(self) -> dict[str, float]:
        """The limits that are set; `Limits(**document)` reads them back."""
        members = {"min_lr": self.min_lr, "max_lr": self.max_lr, "max_change": self.max_change}
        return {name: value for name, value in members.items() if value is not None}

    @classmethod
    def from_json(cls, document: Mapping[str, Any] | None) -> "Limits | None":
        """The inverse of `to_json`; None for nothing. Raises InvalidPolicy, and TypeError for other names."""
        return None if document is None else cls(**document)
