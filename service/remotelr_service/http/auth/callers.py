"""Callers and the scopes of their tokens:

    report    trains and reads the runs of one experiment, or one run
    view      reads every run
    operate   reads every run and sends commands
    admin     everything, including reports, deletion and tokens

`admin` contains `operate`, which contains `view`. `report` is separate: a trainer cannot read other runs, and an
operator cannot send reports.
"""

from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Literal

from remotelr_service.errors import ExperimentOutOfReach

Scope = Literal["report", "view", "operate", "admin"]

_CONTAINED: dict[Scope, frozenset[Scope]] = {
    "report": frozenset({"report"}),
    "view": frozenset({"view"}),
    "operate": frozenset({"view", "operate"}),
    "admin": frozenset({"report", "view", "operate", "admin"}),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """The client of a request, identified by its token.

    token: the token's id; None for the token of the settings, and without tokens.
    name: the token's name; None without tokens.
    experiment, run: the restriction of the token; None means no restriction.
    """

    scope: Scope
    name: str | None = None
    token: int | None = None
    experiment: str | None = None
    run: str | None = None

    def may(self, scopes: AbstractSet[Scope]) -> bool:
        """Whether the caller's scope contains one of these scopes."""
        return not _CONTAINED[self.scope].isdisjoint(scopes)

    @property
    def is_restricted(self) -> bool:
        """Whether the token is restricted to some runs."""
        return self.experiment is not None or self.run is not None

    def can_access(self, run: str, experiment: str | None) -> bool:
        """Whether the caller can access the run, which belongs to `experiment`."""
        return self.run in (None, run) and self.experiment in (None, experiment)

    def experiment_for(self, requested: str | None) -> str | None:
        """The experiment of a new run of the caller. Raises ExperimentOutOfReach."""
        if not self.is_restricted:
            return requested
        # A token for one run must not choose limits and policy by naming an experiment.
        if requested not in (None, self.experiment):
            raise ExperimentOutOfReach(self.experiment, requested)
        return self.experiment

    def actor(self, given: str | None) -> str | None:
        """The actor of a command: the token's name; without tokens the given name."""
        return given if self.name is None else self.name


# The caller of a request that needs no token.
ANONYMOUS = Caller(scope="admin")
