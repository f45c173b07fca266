"""Who asks, and what they may. A token has one scope:

    report    trains: reports for the runs of one experiment, or for one run, and sees those alone
    view      sees every run
    operate   sees, and orders
    admin     everything, reporting, deleting and tokens included

`admin` holds `operate`, which holds `view`. `report` stands apart: who trains cannot look around, and who operates
cannot make up what was measured.
"""

from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Literal

from remotelr_service.errors import ExperimentOutOfReach

Scope = Literal["report", "view", "operate", "admin"]

_HELD: dict[Scope, frozenset[Scope]] = {
    "report": frozenset({"report"}),
    "view": frozenset({"view"}),
    "operate": frozenset({"view", "operate"}),
    "admin": frozenset({"report", "view", "operate", "admin"}),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Somebody who asks.

    token: the number of their token; None for the administrator whose token is a setting, and where none are needed.
    name: the token's; None where none are needed.
    experiment, run: what they are kept to; None is everything.
    """

    scope: Scope
    name: str | None = None
    token: int | None = None
    experiment: str | None = None
    run: str | None = None

    def may(self, scopes: AbstractSet[Scope]) -> bool:
        """Whether one of these scopes is theirs, or held by theirs."""
        return not _HELD[self.scope].isdisjoint(scopes)

    @property
    def is_restricted(self) -> bool:
        """Whether there are runs that are not there for them."""
        return self.experiment is not None or self.run is not None

    def can_access(self, run: str, experiment: str | None) -> bool:
        """Whether the run, which belongs to `experiment`, is there for them."""
        return self.run in (None, run) and self.experiment in (None, experiment)

    def experiment_for(self, asked: str | None) -> str | None:
        """The experiment that a new run of theirs belongs to. Raises ExperimentOutOfReach."""
        if not self.is_restricted:
            return asked
        # Who is kept to a run alone would choose its limits and its policy by naming an experiment.
        if asked not in (None, self.experiment):
            raise ExperimentOutOfReach(self.experiment, asked)
        return self.experiment

    def actor(self, said: str | None) -> str | None:
        """Who an order comes from: the token's name; without tokens whoever they say they are."""
        return said if self.name is None else self.name


# Where no tokens are needed.
ANONYMOUS = Caller(scope="admin")
