"""One life of a trainer under a run, for every framework alike: the rate of each epoch, whatever happens.

    opened ──begin──▶ following ──report──▶ following … ──▶ finished
                        ▲   └── the service is away: the local rules decide, reports are kept
                        └── it is back: it hears what was kept, and its decisions count again
                            (a newer attempt has taken over: lost, for good)

Training never dies of us: after `open` nothing here raises, unless `on_unreachable` says so, and each
cause is told once.
"""

import math
import time
import weakref
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Literal

from remotelr._session import messages
from remotelr._session.budget import Budget
from remotelr._session.call_policy import CallPolicy
from remotelr._session.delivery import Delivery
from remotelr._session.identity import ProcessIdentity
from remotelr._session.journal import End, Journal
from remotelr._session.listener import listen
from remotelr._session.messages import Notifier
from remotelr._session.replica import LocalReplica, Request, same
from remotelr.client import Client, FinalStatus
from remotelr.rules import AttemptRequest, Decision, Report, RulesError, RunSpec, policy_from_json, policy_to_json

OnUnreachable = Literal["local", "hold", "raise"]

# What a state or a file that somebody has tampered with can lead to.
_INVALID_STATE_ERRORS = (ArithmeticError, AttributeError, LookupError, RulesError, TypeError, ValueError)


class Session:
    """Follows the run `key`: through the service while it answers, else through the same rules here.

    client: None for a training that has no service, and decides alone.
    members: of the run, as `Client.run` takes them.
    journal: what is known of the run from earlier lives, and where this one writes.
    on_unreachable: `local` decides here, `hold` keeps the last rate, `raise` raises ServiceUnreachable.
    live: hear of commands while an epoch runs, where there is a service to hear from.
    say: tells people of what is no warning. clock: what its tries and their budget are measured by.

    decision: the newest decision held. per_step: its rate changes within the epoch.

    Ranks of one run never part: alone with the local rules, each decides what follows from the epoch
    alone, which is the same in all of them. What depends on metrics is held until the service answers.
    """

    def __init__(
        self,
        client: Client | None,
        key: str,
        members: Mapping[str, Any],
        *,
        journal: Journal,
        life: ProcessIdentity | None = None,
        on_unreachable: OnUnreachable = "local",
        live: bool = False,
        say: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.decision: Decision | None = None
        self.per_step = False
        self._key = key
        self._members = dict(members)
        self._journal = journal
        self._life = life or ProcessIdentity()
        self._on_unreachable = on_unreachable
        self._people = Notifier(say)
        self._shadow: LocalReplica | None = None
        self._asked: RunSpec | None = None
        self._begun = False
        self._unsure = False
        self._obeyed = 0
        self._link: Delivery | None = None
        self._asking: CallPolicy | None = None
        if client is not None:
            budget = Budget(client.timeout_s, clock)
            ranked = {**self._members, "world_size": self._life.world_size}
            self._link = Delivery(client, key, ranked, journal=journal, budget=budget, warn=self._people.warn_once)
            self._asking = CallPolicy(
                self._link,
                journal=journal,
                budget=budget,
                raises=on_unreachable == "raise",
                goes_on=self._goes_on,
                people=self._people,
                clock=clock,
            )
        self._listener = listen(client.transport, key) if live and client is not None else None
        if self._listener is not None:
            # A `fit` that raises tells nobody; its thread must not outlive it.
            weakref.finalize(self, self._listener.leave).atexit = False

    def open(self, **lengths: Any) -> None:
        """Create or find the run. lengths: initial_learning_rate, steps_per_epoch, total_epochs.

        Raises ServiceRefused, or PolicyConflict, InvalidPolicy and InvalidCommand where there is no service to say
        so: what is wrong before the first epoch is the user's to mend.
        """
        spec = self._asked = RunSpec(policy=policy_from_json(self._members["policy"]), **lengths)
        known = self._journal.spec
        if known is not None and (known.policy == spec.policy or known.requested):
            # The rate the run began with, which is seldom the one a later life finds in its optimizer.
            spec = replace(spec, initial_learning_rate=known.initial_learning_rate)
        self.renew_budget()
        if self._link is not None and self._asking is not None:
            self._link.describe({**lengths, "initial_learning_rate": spec.initial_learning_rate})
            self._asking.ask(self._link.find, refusals=True)
        self._shadow = self._remembered(spec)
        if self._shadow is not None:
            self._tell_policy(self._shadow.spec, asked=spec)
            self._journal.describe(self._shadow.spec)

    def renew_budget(self) -> None:
        """Let the calls from now on take the client's `timeout_s` in all: once per boundary between epochs."""
        if self._asking is not None:
            self._asking.renew_budget()

    def begin(self, epoch: int, step: int) -> None:
        """Start, or start again, at `epoch`, unless that is done.

        step: optimizer steps made before it by our own count, where nobody knows better.
        """
        if self._begun:
            return
        self._begun = True
        name, ranks = self._life.name(), self._life.world_size
        self._decide(AttemptRequest(key=name, epoch=epoch, step=step, world_size=ranks))

    def report(
        self, epoch: int, metrics: Mapping[str, float | None], *, step: int | None, learning_rate: float | None
    ) -> None:
        """Report the epoch; `decision` is the next one's afterwards, if there is one.

        step: optimizer steps of the run by its end. learning_rate: what was really used.
        """
        if self.lost or not self._begun:
            return
        held = self.decision
        report = Report(
            epoch=epoch,
            metrics={name: float(value) for name, value in metrics.items() if value is not None},
            rank=self._life.rank,
            step=step,
            learning_rate=learning_rate if learning_rate is not None and math.isfinite(learning_rate) else None,
            local=held is not None and held.epoch == epoch and held.local and self._link is not None,
        )
        self._decide(report)

    def learning_rate(self, epoch: int, step: int) -> float | None:
        """The rate of `epoch` at `step` optimizer steps after its beginning; None where nothing was decided for it."""
        decision = self.decision
        if self.lost or decision is None or decision.epoch != epoch:
            return None
        if not self.per_step or self._shadow is None:
            return decision.learning_rate
        return self._shadow.learning_rate_at(step)

    def momentum(self, epoch: int, step: int) -> float | None:
        """The momentum that goes with the rate, where the policy has one; None where nothing was decided."""
        decision = self.decision
        if self.lost or decision is None or decision.epoch != epoch:
            return None
        if not self.per_step or self._shadow is None:
            return decision.momentum
        return self._shadow.momentum_at(step)

    def hear(self) -> bool:
        """Carry out what has been ordered since it was asked last; whether that was anything. It never waits."""
        orders = [] if self._listener is None else self._listener.heard()
        shadow, decision = self._shadow, self.decision
        if not orders or shadow is None or decision is None or not shadow.agrees:
            return False
        news = [order for order in orders if order.seq > max(decision.seq, self._obeyed)]
        obeyed = [shadow.obey(order.command) for order in news]
        self._obeyed = max((order.seq for order in news), default=self._obeyed)
        self._hold(shadow.decision)
        return any(obeyed)

    @property
    def lost(self) -> bool:
        """A newer attempt has taken over: this process must stop."""
        return self._asking is not None and self._asking.lost

    @property
    def stopped(self) -> bool:
        """The run is to stop: somebody ordered it, or its policy says so."""
        return self.decision is not None and self.decision.action == "stop"

    @property
    def why_stopped(self) -> str:
        """Why this process must end, in words that go on after a colon."""
        if self.lost:
            return "a newer attempt has taken the run over"
        return messages.why_it_stops(self.decision)

    def rollback_to(self, epoch: int) -> int | None:
        """The epoch whose checkpoint `epoch` is to begin with; None where it goes on from where the training is."""
        decision = self.decision
        if self.lost or decision is None or decision.epoch != epoch or decision.action != "rollback":
            return None
        return decision.rollback_to

    def step_of(self, epoch: int) -> int | None:
        """Optimizer steps of the run before `epoch`, where somebody said so."""
        return self.decision.step if self.decision is not None and self.decision.epoch == epoch else None

    @property
    def counts_steps(self) -> bool:
        """The decisions in force count optimizer steps."""
        return self.decision is not None and self.decision.step is not None

    def monitors(self) -> tuple[str, ...]:
        """The metrics the run's policy looks at; none while it is not known."""
        return () if self._shadow is None else self._shadow.policy.monitors()

    def finish(self, status: FinalStatus) -> None:
        """Say how the run ended, and let go of the connection and the journal."""
        self._stop_listening()
        heard = False
        if self._asking is not None and self._link is not None:
            heard = not self.lost and self._tell_end(self._asking, self._link, status)
            self._link.close()
        self._journal.close(done=heard)

    def abandon(self) -> None:
        """Let go of everything without a word: training ended nobody knows how."""
        self._stop_listening()
        if self._link is not None:
            self._link.close()
        self._journal.close()

    def _stop_listening(self) -> None:
        if self._listener is not None:
            self._listener.close()

    def _decide(self, asked: Request) -> None:
        self._journal.ask(asked)
        ours = self._ours(asked)
        theirs = None if self._link is None or self._asking is None else self._asking.ask(self._link.deliver)
        if theirs is not None:
            self._follow(theirs, ours, asked)
            return
        self._journal.keep()
        if ours is not None and (self._link is None or self._on_unreachable == "local"):
            self._hold(ours)
            self._journal.save(ours)

    def _ours(self, asked: Request) -> Decision | None:
        """What the rules say here; None where that is not to be relied on."""
        if self._shadow is None or not self._decides_alone:
            return None
        try:
            return self._shadow.decide(asked)
        except _INVALID_STATE_ERRORS as error:
            without = messages.goes_on(by_the_rules=False)
            self._people.warn_once("rules", f"the rules give no rate here: {error}. {without}")
            return None

    @property
    def _decides_alone(self) -> bool:
        """Every rank, left alone with the rules, would say the same."""
        return self._life.world_size == 1 or not self.monitors()

    def _hold(self, decision: Decision) -> None:
        shadow = self._shadow
        self.decision = decision
        self.per_step = shadow is not None and shadow.policy.unit == "step" and shadow.agrees

    def _follow(self, theirs: Decision, ours: Decision | None, asked: Request) -> None:
        """The service has decided, and knows best: of commands, of other ranks, of another policy."""
        self._journal.hear(theirs)
        self._tell_back(theirs, ours)
        shadow = self._shadow = self._followed(self._shadow, theirs, None if ours is None else asked)
        as_expected = shadow is not None and (shadow.agrees if ours is None else same(ours, theirs))
        # One event for each rank's report; what is more may be another policy, even one that gives the same rate now.
        more = self.decision is not None and theirs.seq - self.decision.seq > self._life.world_size
        if not as_expected or more or self._unsure:
            self._learn_anew(theirs)
        self._tell_drift(theirs)
        self._hold(theirs)
        if self._listener is not None:
            self._obeyed = 0
            self._listener.follow(theirs.seq)
        if theirs.step is not None and not self._knows_steps:
            self._people.warn_once("rules", messages.older_rules(theirs))

    @property
    def _knows_steps(self) -> bool:
        shadow = self._shadow
        return shadow is not None and (shadow.policy.unit == "epoch" or shadow.agrees)

    def _learn_anew(self, decision: Decision) -> None:
        """Somebody may have given the run another policy since we read it."""
        if self._link is None or self._asking is None:
            return
        # Who was not answered asks again with the next decision.
        self._unsure = self._asking.ask(self._link.refresh) is None
        try:
            fresh = LocalReplica(self._key, self._spec_of(self._link))
        except _INVALID_STATE_ERRORS:
            # A policy of a newer release.
            self._shadow = None
            return
        if self._shadow is None or fresh.spec != self._shadow.spec:
            self._shadow = self._followed(fresh, decision)
            self._journal.describe(fresh.spec)

    def _followed(
        self, shadow: LocalReplica | None, theirs: Decision, asked: Request | None = None
    ) -> LocalReplica | None:
        """The shadow where the service stands; None where it cannot go there: a newer release remembers more."""
        if shadow is None:
            return None
        try:
            shadow.follow(theirs, asked)
        except _INVALID_STATE_ERRORS:
            self._people.warn_once("rules", messages.newer_state(theirs))
            return None
        return shadow

    def _remembered(self, spec: RunSpec) -> LocalReplica | None:
        """The run as far as it is known here: by the service, by earlier lives, or by what its owner says."""
        run = None if self._link is None else self._link.run
        try:
            known = spec if run is None or self._link is None else self._spec_of(self._link)
        except _INVALID_STATE_ERRORS:
            # A policy of a newer release.
            return None
        if run is not None:
            shadow = self._folded(known)
            return shadow if self._journal.unheard else self._followed(shadow, run.view.decision)
        shadow = self._folded(self._journal.spec or known)
        shadow.put(known, self._members.get("on_conflict") or "error")
        return shadow

    def _spec_of(self, link: Delivery) -> RunSpec:
        """What the run is, and what its owner had asked for, where an operator has changed it since."""
        spec, asked = link.spec, self._asked
        if asked is None or (spec.policy, spec.total_epochs) == (asked.policy, asked.total_epochs):
            return spec
        return replace(spec, requested={"policy": policy_to_json(asked.policy), "total_epochs": asked.total_epochs})

    def _folded(self, spec: RunSpec) -> LocalReplica:
        shadow = LocalReplica(self._key, spec)
        if self._journal.spec is None or self._journal.spec.policy != spec.policy:
            return shadow
        try:
            self._journal.fold(shadow)
        except _INVALID_STATE_ERRORS:
            return LocalReplica(self._key, spec)
        return shadow

    def _tell_end(self, asking: CallPolicy, link: Delivery, status: FinalStatus) -> bool:
        """Whether the service has heard everything, the end included.

        A life without an epoch has no end of its own: it tells what earlier ones have left.
        """
        if self._begun and self._life.rank == 0:
            self._journal.ask(End(status))
        if not self._journal.unheard:
            return self._begun
        asking.ask_at_last(link.deliver)
        left = self._journal.unheard
        if not left:
            return True
        self._journal.keep()
        self._people.warn_once("left", messages.never_heard(self._key, left, self._journal.path))
        return False

    def _tell_policy(self, now: RunSpec, *, asked: RunSpec) -> None:
        before = self._journal.spec if self._link is None or self._link.before is None else self._link.before
        said = messages.came_of_conflict(self._members.get("on_conflict"), before=before, now=now, asked=asked)
        if said is not None:
            self._people.say(f"run {self._key!r} {said}")

    def _tell_back(self, theirs: Decision, ours: Decision | None) -> None:
        if self._link is None or self._asking is None or not self._asking.away:
            return
        self._asking.away = False
        self._people.say(f"{self._link.url} answers again.")
        if ours is not None and self._on_unreachable == "local" and ours.learning_rate != theirs.learning_rate:
            self._people.say(messages.changed_meanwhile(theirs, ours))

    def _tell_drift(self, theirs: Decision) -> None:
        held = self.decision
        if theirs.drift is None or held is None or not math.isclose(theirs.drift, held.learning_rate, rel_tol=1e-6):
            # What was used was not what we had been told either: the service was away, or has changed the run.
            return
        self._people.warn_once("drift", messages.other_rate(theirs))

    def _goes_on(self) -> str:
        return messages.goes_on(by_the_rules=self._on_unreachable == "local" and self._decides_alone)
