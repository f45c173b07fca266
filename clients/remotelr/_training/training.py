"""One training on all its ranks: rank 0 has the session, and the other ranks follow its decisions.

Every method but the reading of rates is collective: all ranks call it, in the same order. Rank 0 carries it out and
shares the outcome, so all ranks have the same rates at every step, and only one process talks to the service.
"""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Literal, get_args

from remotelr._http.responses import read_decision
from remotelr._session.identity import ProcessIdentity
from remotelr._session.journal import snapshot
from remotelr._session.metrics import reportable
from remotelr._session.replica import DecidedRates, LocalReplica
from remotelr._session.session import Session
from remotelr._session.setup import Setup
from remotelr._training.ranks import Ranks, SingleRank
from remotelr.client import FinalStatus
from remotelr.errors import RanksDisagree, warn
from remotelr.rules import Decision, RunSpec
from remotelr.rules.run.decision import decision_to_json

Reduce = Literal["rank0", "mean"]


class Training:
    """The rates of a training, and its reports.

    members: of the run, as `Client.run` takes them. ranks: of the training.
    reduce: a reported metric is that of rank 0, or the mean over the ranks, weighted by the `weight` of each.
    load: loads the checkpoint of the end of an epoch (0-based) on this rank, if the policy's guard rolls back.
    say: prints a message that is not a warning.

    A training can be opened again; that is a new attempt.
    """

    def __init__(
        self,
        setup: Setup,
        members: Mapping[str, Any],
        *,
        ranks: Ranks | None = None,
        reduce: Reduce = "rank0",
        load: Callable[[int], Any] | None = None,
        say: Callable[[str], None],
    ) -> None:
        if reduce not in get_args(Reduce):
            raise ValueError(f"reduce must be one of {', '.join(get_args(Reduce))}, got {reduce!r}")
        self._setup = setup
        self._members = members
        self._ranks = ranks or SingleRank()
        self._reduce = reduce
        self._load = load
        self._say = say
        self._attempts = 0
        self._resumed: list[dict[str, Any]] = []
        self._rates: Session | Follower = Follower()
        self._rolled_back_at: int | None = None

    @property
    def is_disabled(self) -> bool:
        """`REMOTELR_MODE` is `disabled`: nothing is decided or reported."""
        return self._setup.mode == "disabled"

    def open(self, **lengths: Any) -> None:
        """Create or find the run. lengths: initial_learning_rate, steps_per_epoch, total_epochs.

        Raises ServiceRefused; without a service PolicyConflict, InvalidPolicy and InvalidCommand.
        """
        self.abandon()
        self._attempts += 1
        self._rolled_back_at = None

        def open_session() -> None:
            # The other ranks follow this one: for the service the training is one process.
            session = self._setup.session(self._members, ProcessIdentity(number=self._attempts), self._say)
            self._rates = session
            if self._resumed:
                session.resume_from(self._resumed)
            session.open(**lengths)

        self._together(open_session)

    def snapshot(self) -> str:
        """What a checkpoint keeps, to go on without the service and without a file; empty before the first decision."""
        spec, decision = self._rates.spec, self._rates.decision
        return "" if spec is None or decision is None else json.dumps(snapshot(spec, decision))

    def resume_from(self, saved: str) -> None:
        """Before `open`: continue from the `snapshot` of a checkpoint, if neither the service nor a file knows more."""
        self._resumed = json.loads(saved) if saved else []

    def begin(self, epoch: int, step: int) -> None:
        """Begin an attempt at `epoch`, `step` optimizer steps after the beginning of the training."""

        def begin() -> None:
            self._session.begin(epoch, step)
            self._say(self._session.start_line())

        self._together(begin)

    def report(
        self, epoch: int, logs: Mapping[str, Any], *, step: int, learning_rate: float | None, weight: float = 1.0
    ) -> None:
        """Report an epoch. logs: metrics by name; those that the service does not accept are left out.

        step: optimizer steps of the run by its end. learning_rate: the rate of its first step, as it was used.
        weight: of this rank's metrics in the mean, >= 0, for example its number of samples.

        Raises ValueError for another weight.
        """
        if not (math.isfinite(weight) and weight >= 0):
            raise ValueError(f"weight must be finite and >= 0, got {weight!r}")
        if self.is_disabled:
            return
        own = json.dumps([reportable(logs, first=self._rates.monitors()), weight])
        if self._ranks.rank != 0:
            self._ranks.gather(own)

        def report() -> None:
            # Here, so that the ranks that have come learn of one that has not.
            reports = [json.loads(each) for each in self._ranks.gather(own)]
            session = self._session
            session.renew_budget()
            values = reports[0][0] if self._reduce == "rank0" else _mean(reports)
            session.report(epoch, values, step=step if session.counts_steps else None, learning_rate=learning_rate)

        self._together(report)

    def learning_rate(self, epoch: int, step: int) -> float | None:
        """The rate `step` optimizer steps after the beginning of `epoch`; None if `epoch` has no decision."""
        return self._rates.learning_rate(epoch, step)

    def momentum(self, epoch: int, step: int) -> float | None:
        """The momentum of the same step; None if the policy has none."""
        return self._rates.momentum(epoch, step)

    def apply_live_commands(self) -> bool:
        """Apply commands that were received meanwhile; returns True if they changed anything."""
        return isinstance(self._rates, Session) and self._rates.apply_live_commands()

    def roll_back(self, epoch: int) -> None:
        """Load the checkpoint that the decision for `epoch` asks for, once. A failure is a warning."""
        back_to = self._rates.rollback_to(epoch)
        if back_to is None or self._rolled_back_at == epoch:
            return
        self._rolled_back_at = epoch
        try:
            if self._load is None:
                raise LookupError("give checkpoint= a function that loads the end of an epoch")  # noqa: TRY301
            self._load(back_to)
        except Exception as error:  # noqa: BLE001 - the user's code may raise anything; training goes on
            warn(
                f"the checkpoint of the end of epoch {back_to + 1} was not loaded for a rollback: "
                f"{type(error).__name__}: {error}. Training goes on with the weights it has."
            )
        else:
            self._say(f"RemoteLR: epoch {epoch + 1} begins with the checkpoint of the end of epoch {back_to + 1}.")

    @property
    def decision(self) -> Decision | None:
        """The newest decision in force."""
        return self._rates.decision

    @property
    def per_step(self) -> bool:
        """The rate changes within an epoch."""
        return self._rates.per_step

    @property
    def ended(self) -> bool:
        """The training must end: by the policy, a command, or because a newer attempt has taken over."""
        return self._rates.stopped or self._rates.lost

    @property
    def stop_reason(self) -> str:
        """Why it must end, as a clause to follow a colon."""
        return self._rates.stop_reason

    def finish(self, status: FinalStatus = "completed") -> None:
        """Report the end: `stopped` in the place of `completed` if the decision in force has ended the training.

        The decision and the reason of the end stay readable.
        """
        if isinstance(self._rates, Session):
            session, self._rates = self._rates, Follower()
            self._rates.take(json.loads(_outcome(session)))
            status = "stopped" if status == "completed" and session.stopped else status
            session.finish(status)
            self._say(session.end_line(status))

    def abandon(self) -> None:
        """Close the connection and the spool without reporting an end."""
        if isinstance(self._rates, Session):
            self._rates.abandon()
        self._rates = Follower()

    @property
    def _session(self) -> Session:
        assert isinstance(self._rates, Session), "rank 0 has opened the training"
        return self._rates

    def _together(self, act: Callable[[], None]) -> None:
        """Carry out `act` on rank 0, and share its outcome or its failure with the other ranks."""
        if self.is_disabled:
            return
        if self._ranks.count == 1:
            act()
        elif self._ranks.rank == 0:
            try:
                act()
            except Exception as error:
                self._ranks.share(json.dumps({"error": f"{type(error).__name__}: {error}"}))
                raise
            self._ranks.share(_outcome(self._session))
        else:
            follower = self._rates if isinstance(self._rates, Follower) else Follower()
            follower.take(json.loads(self._ranks.share("")))
            self._rates = follower


class Follower(DecidedRates):
    """The decisions of rank 0, on another rank."""

    def __init__(self) -> None:
        super().__init__()
        self.stopped = False
        self.stop_reason = ""
        self._lost = False

    @property
    def lost(self) -> bool:
        return self._lost

    def take(self, outcome: Mapping[str, Any]) -> None:
        """Follow rank 0. outcome: as `_outcome` gives it. Raises RanksDisagree with the error of rank 0."""
        if "error" in outcome:
            raise RanksDisagree(f"rank 0 failed: {outcome['error']}")
        self.per_step, self.stopped, self._lost = outcome["per_step"], outcome["stopped"], outcome["lost"]
        self.stop_reason = outcome["stop_reason"]
        if outcome["spec"] is not None:
            spec = replace(RunSpec.from_json(outcome["spec"]), world_size=1)
            if self._replica is None or self._replica.spec != spec:
                self._replica = LocalReplica("rank0", spec)
        if outcome["decision"] is not None:
            self.decision = read_decision(outcome["decision"])
            if self._replica is not None:
                self._replica.sync_to(self.decision)


def _outcome(session: Session) -> str:
    spec, decision = session.spec, session.decision
    return json.dumps(
        {
            "spec": None if spec is None else spec.to_json(),
            "decision": None if decision is None else decision_to_json(decision),
            "per_step": session.per_step,
            "stopped": session.stopped,
            "lost": session.lost,
            "stop_reason": session.stop_reason if session.stopped or session.lost else "",
        }
    )


def _mean(reports: list[tuple[dict[str, float], float]]) -> dict[str, float]:
    """The weighted mean of each metric over the ranks that have it; rank 0 determines the order."""
    names = dict.fromkeys(name for metrics, _ in reports for name in metrics)
    means = {}
    for name in names:
        values = [(metrics[name], weight) for metrics, weight in reports if name in metrics and weight > 0]
        if values:
            total = math.fsum(weight for _, weight in values)
            # The fraction first: a large value times its weight may not be finite.
            means[name] = sum(value * (weight / total) for value, weight in values)
    return means
