"""What the policies feature returns."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Alternative:
    """What a run would have been told under another policy.

    learning_rates: one for each epoch of the `WhatIf`. reductions: how often a plateau lowered the rate.
    stops_at: the first epoch it would not have begun; None where it would have gone on.
    """

    learning_rates: Sequence[float]
    reductions: int
    stops_at: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class WhatIf:
    """The rates of a run, and those it would have had. epochs: those reported, and the next one."""

    epochs: Sequence[int]
    actual: Sequence[float]
    alternatives: Mapping[str, Alternative]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayPolicy:
    """What happened to a run, as a policy. epochs: so many have a rate. notes: what could not be kept."""

    policy: Mapping[str, Any]
    epochs: int
    exact: bool
    notes: Sequence[str]
