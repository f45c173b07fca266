"""The client's decision: the service's decision with the run's policy, which gives the rate of each step."""

from dataclasses import field, fields
from math import isclose

from remotelr import rules
from remotelr._http import display
from remotelr._http.requests import Json
from remotelr.rules import Policy, RulesError, RunSpec, RunState, rate_at
from remotelr.rules.values.records import record


class Plan:
    """The policy of a run as the service described it, parsed at its first use.

    spec: the JSON of its policy, initial_learning_rate, world_size and lengths.
    """

    def __init__(self, spec: Json) -> None:
        self._spec = spec
        self._policy: Policy | None = None

    @property
    def policy(self) -> Policy:
        """The policy with its rates and lengths. Raises InvalidPolicy for a policy that is newer than this package."""
        if self._policy is None:
            self._policy = RunSpec.from_json(self._spec).bound()
        return self._policy

    @property
    def counts_steps(self) -> bool:
        """The policy's unit is the optimizer step."""
        return bool(self._spec["policy"].get("unit") == "step")

    def agrees_with(self, decision: rules.Decision) -> bool:
        """Whether the policy gives the decision's rate."""
        try:
            rate = self._rate(decision, 0)
        except (RulesError, LookupError, TypeError, ValueError):
            return False
        return isclose(rate, decision.learning_rate, rel_tol=1e-9)

    def rate(self, decision: rules.Decision, step: int) -> float:
        """The rate at `step` optimizer steps after the beginning of the decision's epoch."""
        return self._rate(decision, step) if self.counts_steps else decision.learning_rate

    def _rate(self, decision: rules.Decision, step: int) -> float:
        position = (decision.step or 0) + step if self.counts_steps else decision.epoch
        return rate_at(self.policy, RunState.from_json(decision.state), decision.epoch, float(position)).learning_rate


@record
class Decision(rules.Decision):
    """The service's decision for one epoch of a run, and the rate of every step in it.

    >>> from remotelr import Client
    >>> from remotelr.testing import InMemoryService
    >>> service = InMemoryService()
    >>> falling = {"type": "linear", "initial_learning_rate": 0.8, "end_learning_rate": 0.0, "decay_steps": 8}
    >>> with Client(service.url, transport=service) as client:
    ...     run = client.run("mnist-7", policy={"schedule": falling, "unit": "step"}, steps_per_epoch=4)
    ...     decision = run.begin(epoch=0)
    >>> decision.epoch, decision.reason, decision.action
    (0, 'start', 'continue')
    >>> [round(decision.at(step), 2) for step in range(4)]
    [0.8, 0.7, 0.6, 0.5]

    plan: the run's policy when the decision was taken.
    """

    plan: Plan = field(repr=False, compare=False)

    def at(self, step: int) -> float:
        """The learning rate at `step` optimizer steps after the beginning of the epoch, computed without a request.

        A policy that counts epochs has the same rate at every step. Raises InvalidPolicy for a policy that is newer
        than this package.
        """
        return self.plan.rate(self, step)

    def _repr_html_(self) -> str:
        return display.decision_html(self)


def planned(decision: rules.Decision, plan: Plan) -> Decision:
    """The decision with its plan."""
    return Decision(**{each.name: getattr(decision, each.name) for each in fields(rules.Decision)}, plan=plan)
