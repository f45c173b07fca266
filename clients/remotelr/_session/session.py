"""One trainer process in one run: the learning rate of each epoch, with or without an answer of the service.

opened ──begin──▶ following ──report──▶ following … ──▶ finished
                    ▲   └── the service is away: the local replica decides, the journal keeps the reports
                    └── the service answers again: it receives them, and its decisions count
                        (a newer attempt has taken over: lost, permanently)
"""

import math
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from remotelr._http.responses import RunView
from remotelr._session import messages
from remotelr._session.budget import Budget
from remotelr._session.call_policy import CallPolicy, NoService
from remotelr._session.delivery import Delivery
from remotelr._session.identity import ProcessIdentity
from remotelr._session.journal import End, Journal
from remotelr._session.listener import listener_beside
from remotelr._session.messages import Notifier
from remotelr._session.metrics import reportable
from remotelr._session.replica import DecidedRates, LocalReplica, Request, same
from remotelr._session.spool import Record
from remotelr._session.summary import Summary, start_line
from remotelr.client import Client, FinalStatus, policy_conflict
from remotelr.rules import (
    AttemptRequest,
    Decision,
    PolicyConflict,
    Report,
    RulesError,
    RunSpec,
    describe_length_mismatch,
    policy_from_json,
    policy_to_json,
)

OnUnreachable = Literal["local", "hold", "raise"]

# What a state or a spool file of another release, or an edited one, can raise.
_INVALID_STATE_ERRORS = (ArithmeticError, AttributeError, LookupError, RulesError, TypeError, ValueError)


class Session(DecidedRates):
    """Decides the rates of the run `key`: with the service while it answers, else with a local replica.

    An adapter for a framework calls, in this order:

        open                                        once; raises what the user has to correct
        begin                                       when the first epoch is known; repeated calls have no effect
        rollback_to, learning_rate, momentum        before each epoch
        apply_live_commands, learning_rate, momentum    before each batch, if `per_step` or `live`
        renew_budget, report                        after each epoch; then end the training if `stopped` or `lost`
        finish, or abandon after an exception       once

    After `open` only ServiceUnreachable is raised, with on_unreachable="raise". Each cause is warned of once.

    client: None for a session without a service.
    members: of the run, as `Client.run` takes them.
    journal: the history of earlier processes of the run, and where this one writes.
    on_unreachable: `local` decides with the replica, `hold` keeps the last rate, `raise` raises ServiceUnreachable.
    live: receive commands while an epoch runs.
    say: prints a message that is not a warning. clock: monotonic seconds for the budget and the breaker.

    decision: the newest decision in force. per_step: the rate changes within its epoch.

    All ranks of a run have the same rates. While the service is away, a rank decides what follows from the epoch
    alone; it holds a rate that depends on metrics, which differ between ranks.
    """

    def __init__(
        self,
        client: Client | None,
        key: str,
        members: Mapping[str, Any],
        *,
        journal: Journal,
        identity: ProcessIdentity | None = None,
        on_unreachable: OnUnreachable = "local",
        live: bool = False,
        say: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__()
        self._key = key
        self._members = dict(members)
        self._journal = journal
        self._identity = identity or ProcessIdentity()
        self._local_fallback = client is None or on_unreachable == "local"
        self._notifier = Notifier(say)
        self._requested: RunSpec | None = None
        self._begun = False
        self._policy_may_be_old = False
        self._applied_seq = 0
        self._summary = Summary()
        self._service: CallPolicy | NoService = NoService()
        self._has_service = client is not None
        if client is not None:
            budget = Budget(client.timeout_s, clock)
            ranked = {**self._members, "world_size": self._identity.world_size}
            self._service = CallPolicy(
                Delivery(client, key, ranked, journal=journal, budget=budget, warn=self._notifier.warn_once),
                journal=journal,
                budget=budget,
                raises=on_unreachable == "raise",
                fallback=self._fallback,
                notifier=self._notifier,
                clock=clock,
            )
        self._listener = listener_beside(client.transport, key) if live and client is not None else None
        if self._listener is not None:
            # After an exception a framework may never call finish or abandon; the thread must still end.
            weakref.finalize(self, self._listener.abandon).atexit = False

    def resume_from(self, records: Sequence[Record]) -> None:
        """Before `open`: continue from the `snapshot` of a checkpoint, if the journal is empty."""
        self._journal.resume_from(records)

    def open(self, **lengths: Any) -> None:
        """Create or find the run.
        lengths: initial_learning_rate, steps_per_epoch, total_epochs.
        Raises ServiceRefused; without a service PolicyConflict, InvalidPolicy and InvalidCommand.
        """
        spec = self._requested = RunSpec(policy=policy_from_json(self._members["policy"]), **lengths)
        known = self._journal.spec
        if known is not None and (known.policy == spec.policy or known.requested):
            # A resumed trainer finds a later rate in its optimizer, not the one that the run began with.
            spec = replace(spec, initial_learning_rate=known.initial_learning_rate)
        self.renew_budget()
        self._service.open({**lengths, "initial_learning_rate": spec.initial_learning_rate})
        self._replica = self._initial_replica(spec)
        if self._replica is not None:
            self._announce_policy(self._replica.spec, requested=spec)
            self._journal.set_spec(self._replica.spec)
            self._warn_lengths(self._replica.spec, lengths)

    def renew_budget(self) -> None:
        """Grant the next calls the client's `timeout_s` in all; once between two epochs."""
        self._service.renew_budget()

    def begin(self, epoch: int, step: int) -> bool:
        """Begin an attempt at `epoch`, unless this session has begun one; returns whether it did.
        step: optimizer steps before it as the trainer counts them, for a run whose service has no count.
        """
        if self._begun:
            return False
        self._begun = True
        self._warn_repeated(epoch)
        name, ranks = self._identity.name(), self._identity.world_size
        self._decide(AttemptRequest(key=name, epoch=epoch, step=step, world_size=ranks))
        return True

    def report(self, epoch: int, logs: Mapping[str, Any], *, step: int | None, learning_rate: float | None) -> None:
        """Report the epoch; afterwards `decision` is that of the next epoch, if there is one.
        logs: metrics of the epoch by name; those that the service does not accept are left out.
        step: optimizer steps of the run by the end of the epoch. learning_rate: the rate that the trainer used.
        """
        if self.lost or not self._begun:
            return
        metrics = reportable(logs, first=self.monitors())
        self._warn_missing(epoch, metrics)
        held = self.decision
        report = Report(
            epoch=epoch,
            metrics=metrics,
            rank=self._identity.rank,
            step=step,
            learning_rate=learning_rate if learning_rate is not None and math.isfinite(learning_rate) else None,
            local=held is not None and held.epoch == epoch and held.local and self._has_service,
        )
        self._decide(report)
        self._summary.add(epoch, metrics, self.monitors(), self.decision)

    def apply_live_commands(self) -> bool:
        """Apply the commands received since the last call; returns True if they changed anything. Does not block."""
        commands = [] if self._listener is None else self._listener.take()
        replica, decision = self._replica, self.decision
        if not commands or replica is None or decision is None or not replica.agrees:
            return False
        new = [each for each in commands if each.seq > max(decision.seq, self._applied_seq)]
        changed = [replica.apply_now(each.command) for each in new]
        self._applied_seq = max((each.seq for each in new), default=self._applied_seq)
        self._hold(replica.decision)
        return any(changed)

    @property
    def lost(self) -> bool:
        """A newer attempt has taken over: this process must stop."""
        return self._service.lost

    @property
    def stopped(self) -> bool:
        """The decision in force ends the training."""
        return self.decision is not None and self.decision.action == "stop"

    @property
    def stop_reason(self) -> str:
        """Why this process must end, as a clause to follow a colon."""
        return "a newer attempt has taken the run over" if self.lost else messages.stop_reason(self.decision)

    def step_of(self, epoch: int) -> int | None:
        """Optimizer steps of the run before `epoch`, if its decision has them."""
        return self.decision.step if self.decision is not None and self.decision.epoch == epoch else None

    @property
    def counts_steps(self) -> bool:
        """The policy's unit is the optimizer step."""
        return self.decision is not None and self.decision.step is not None

    def start_line(self) -> str:
        """A line for people, after `begin`: the run, the service and the rate."""
        return start_line(self._key, self._service.url if self._has_service else None, self.decision)

    def end_line(self, status: FinalStatus) -> str:
        """A line for people, at the end: what this process did."""
        return self._summary.end_line(self._key, status, None if self.decision is None else self.decision.learning_rate)

    def finish(self, status: FinalStatus) -> None:
        """Report the end of the run, and close the connection and the journal."""
        self._stop_listening()
        acknowledged = self._has_service and not self.lost and self._deliver_end(status)
        self._service.close()
        self._journal.close(done=acknowledged)

    def abandon(self) -> None:
        """Close the connection and the journal without reporting an end."""
        self._stop_listening()
        self._service.close()
        self._journal.close()

    def _stop_listening(self) -> None:
        if self._listener is not None:
            self._listener.close()

    def _decide(self, request: Request) -> None:
        self._journal.append(request)
        local = self._decide_locally(request)
        decision = self._service.deliver()
        if decision is not None:
            self._accept_decision(decision, local, request)
            return
        self._journal.flush()
        if local is not None and self._local_fallback:
            self._hold(local)
            self._journal.save(local)

    def _decide_locally(self, request: Request) -> Decision | None:
        """The replica's decision; None if other ranks could decide otherwise, or its state is invalid."""
        if self._replica is None or not self._ranks_agree:
            return None
        try:
            return self._replica.decide(request)
        except _INVALID_STATE_ERRORS as error:
            held = messages.fallback(local=False)
            self._notifier.warn_once("rules", f"the local rules cannot decide epoch {request.epoch}: {error}. {held}")
            return None

    @property
    def _ranks_agree(self) -> bool:
        return self._identity.world_size == 1 or not self.monitors()

    def _hold(self, decision: Decision) -> None:
        replica = self._replica
        self.decision = decision
        self.per_step = replica is not None and replica.policy.unit == "step" and replica.agrees

    def _accept_decision(self, decision: Decision, local: Decision | None, request: Request) -> None:
        """Put the service's decision in force: it includes commands, other ranks and another policy."""
        self._journal.acknowledge(decision)
        self._announce_reconnect(decision, local)
        replica = self._replica = self._synced(self._replica, decision, None if local is None else request)
        as_expected = replica is not None and (replica.agrees if local is None else same(local, decision))
        # Each rank's report is one event. Further events may be another policy, even if it has the same rate now.
        more = self.decision is not None and decision.seq - self.decision.seq > self._identity.world_size
        if not as_expected or more or self._policy_may_be_old:
            self._refresh_policy(decision)
        self._warn_drift(decision)
        self._hold(decision)
        if self._listener is not None:
            self._applied_seq = 0
            self._listener.listen_from(decision.seq)
        if decision.step is not None and not self._knows_steps:
            self._notifier.warn_once("rules", messages.old_rules(decision))

    @property
    def _knows_steps(self) -> bool:
        replica = self._replica
        return replica is not None and (replica.policy.unit == "epoch" or replica.agrees)

    def _refresh_policy(self, decision: Decision) -> None:
        """Read the run's policy again: an operator may have replaced it."""
        # Without an answer, the next decision tries again.
        self._policy_may_be_old = not self._service.refresh()
        view = self._service.view
        assert view is not None, "the decision came from this run"
        try:
            fresh = LocalReplica(self._key, self._spec_of(view))
        except _INVALID_STATE_ERRORS:
            # A policy of a newer release.
            self._replica = None
            return
        if self._replica is None or fresh.spec != self._replica.spec:
            self._replica = self._synced(fresh, decision)
            self._journal.set_spec(fresh.spec)

    def _synced(
        self, replica: LocalReplica | None, decision: Decision, request: Request | None = None
    ) -> LocalReplica | None:
        """The replica with the service's state; None if it cannot read the state of a newer release."""
        if replica is None:
            return None
        try:
            replica.sync_to(decision, request)
        except _INVALID_STATE_ERRORS:
            self._notifier.warn_once("rules", messages.unknown_state(decision))
            return None
        return replica

    def _initial_replica(self, spec: RunSpec) -> LocalReplica | None:
        """The run as the service describes it, else as the journal does, else as `spec` requests it."""
        view = self._service.view
        if view is None:
            replica = self._replayed(self._journal.spec or spec)
            try:
                replica.put(spec, self._members.get("on_conflict") or "error")
            except PolicyConflict as error:
                text = policy_conflict(self._key, error.details.get("difference"), error.message)
                raise PolicyConflict(text, **error.details) from None
            return replica
        try:
            known = self._spec_of(view)
        except _INVALID_STATE_ERRORS:
            # A policy of a newer release.
            return None
        replica = self._replayed(known)
        return replica if self._journal.pending else self._synced(replica, view.decision)

    def _spec_of(self, view: RunView) -> RunSpec:
        """The run's spec; if an operator has changed it, `requested` holds what this trainer requests."""
        spec, requested = RunSpec.from_json(view.spec), self._requested
        if requested is None or (spec.policy, spec.total_epochs) == (requested.policy, requested.total_epochs):
            return spec
        wanted = {"policy": policy_to_json(requested.policy), "total_epochs": requested.total_epochs}
        return replace(spec, requested=wanted)

    def _replayed(self, spec: RunSpec) -> LocalReplica:
        """A replica after the journal's entries; a new one if they belong to another policy or are invalid."""
        replica = LocalReplica(self._key, spec)
        if self._journal.spec is None or self._journal.spec.policy != spec.policy:
            return replica
        try:
            self._journal.fold(replica)
        except _INVALID_STATE_ERRORS:
            return LocalReplica(self._key, spec)
        return replica

    def _deliver_end(self, status: FinalStatus) -> bool:
        """True if every entry is acknowledged. A session that never began delivers what earlier processes left."""
        if self._begun and self._identity.rank == 0:
            self._journal.append(End(status))
        if not self._journal.pending:
            return self._begun
        self._service.deliver_last()
        left = self._journal.pending
        if not left:
            return True
        self._journal.flush()
        self._notifier.warn_once("left", messages.undelivered(self._key, left, self._journal.path))
        return False

    def _announce_policy(self, spec: RunSpec, *, requested: RunSpec) -> None:
        before = self._service.previous_spec or self._journal.spec
        outcome = messages.conflict_outcome(
            self._members.get("on_conflict"), before=before, now=spec, requested=requested
        )
        if outcome is not None:
            self._notifier.say(f"run {self._key!r} {outcome}")

    def _announce_reconnect(self, decision: Decision, local: Decision | None) -> None:
        if not self._service.away:
            return
        self._service.away = False
        self._notifier.say(f"{self._service.url} answers again.")
        if local is not None and self._local_fallback and local.learning_rate != decision.learning_rate:
            self._notifier.say(messages.changed_while_away(decision, local))

    def _warn_repeated(self, epoch: int) -> None:
        """Warn of a training that rewinds a finished run: often a script that runs again with the same key."""
        view = self._service.view
        finished = view is not None and view.status in ("completed", "stopped")
        if view is not None and finished and epoch < view.epoch and self._identity.rank == 0:
            self._notifier.warn_once("repeated", messages.repeated(self._key, view.status, view.epoch, epoch))

    def _warn_lengths(self, spec: RunSpec, lengths: Mapping[str, Any]) -> None:
        # The lengths of this training: a run that is continued keeps its first total_epochs.
        spec = replace(spec, **{name: length for name, length in lengths.items() if length is not None})
        mismatch = describe_length_mismatch(spec) if self._identity.rank == 0 else None
        if mismatch is not None:
            self._notifier.warn_once("lengths", f"run {self._key!r}: {mismatch}")

    def _warn_drift(self, decision: Decision) -> None:
        held = self.decision
        if decision.drift is None or held is None:
            return
        # Another rate than the held one means that the service was away, or has changed the run.
        if math.isclose(decision.drift, held.learning_rate, rel_tol=1e-6):
            self._notifier.warn_once("drift", messages.drift(decision))

    def _warn_missing(self, epoch: int, metrics: Mapping[str, float]) -> None:
        missing = next((name for name in self.monitors() if name not in metrics), None)
        if missing is not None:
            self._notifier.warn_once("metric", messages.missing_metric(epoch, missing, metrics))

    def _fallback(self) -> str:
        return messages.fallback(local=self._local_fallback and self._ranks_agree)
