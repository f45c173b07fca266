"""One training job: what its trainer tells of it and is told, and what an operator may order of it."""

import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, Literal, TypedDict, Unpack

from remotelr import rules
from remotelr._http import requests, responses
from remotelr._http.caller import Service
from remotelr._http.responses import CommandReceipt, ReportRecord, RunView
from remotelr.decision import Decision, Plan, planned
from remotelr.errors import RanksMissing, RemoteLRError, ServiceRefused
from remotelr.rules import Policy, Report, Waiting, policy_to_json
from remotelr.rules.run.command import Continuity, Mode, OperatorCommandType, StateMode


class CommandOptions(TypedDict, total=False):
    """What every order takes, by name.

    reason, actor: for the log: why, and who (with a token, the service notes the token's name).
    key: the same key is the same order, which counts once; random when not given.
    expected_seq: the number of the newest event seen of the run; the order is refused where there is a newer one.
    timeout_s: another budget than the client's.
    """

    reason: str | None
    actor: str | None
    key: str | None
    expected_seq: int | None
    timeout_s: float | None


class RunCommands:
    """What an operator orders of the run `key`. It bears on the first epoch that has no rate yet.

    Every order takes what `About` names.

    Raises ServiceRefused (`invalid_command`, `seq_conflict`…) and ServiceUnreachable.
    """

    key: str
    _service: Service

    def set_learning_rate(
        self,
        value: float,
        *,
        mode: Mode = "pin",
        until_epoch: int | None = None,
        until_time: str | None = None,
        **about: Unpack[CommandOptions],
    ) -> CommandReceipt:
        """Set the rate.

        mode: `pin` holds it, whatever the schedule says; `one_shot` holds it for one epoch; `rebase` lets the
            schedule go on from it.
        until_epoch: the first epoch that is the schedule's again. until_time: as that, from a time on, in ISO
            8601 with its offset.
        """
        until = {"epoch": until_epoch} if until_time is None else {"time": until_time}
        held = until_epoch is None and until_time is None
        return self.command("set_learning_rate", value=value, mode=mode, until=None if held else until, **about)

    def scale(self, factor: float, **about: Unpack[CommandOptions]) -> CommandReceipt:
        """Multiply what is in force."""
        return self.command("scale", factor=factor, **about)

    def release(self, **about: Unpack[CommandOptions]) -> CommandReceipt:
        """Back to the policy's own curve, and no longer told to stop."""
        return self.command("release", **about)

    def pause(self, **about: Unpack[CommandOptions]) -> CommandReceipt:
        """Hold the rate in force, and let the schedule stand still."""
        return self.command("pause", **about)

    def resume_schedule(self, **about: Unpack[CommandOptions]) -> CommandReceipt:
        """Let the schedule go on from where it was paused."""
        return self.command("resume_schedule", **about)

    def replace_policy(
        self, policy: Policy | Mapping[str, Any], *, state: StateMode = "keep", **about: Unpack[CommandOptions]
    ) -> CommandReceipt:
        """Another policy. state: `keep` what the schedule remembers where the new one has its shape, or `reset`."""
        return self.command("replace_policy", policy=_document(policy), state=state, **about)

    def extend(
        self, total: int, *, continuity: Continuity = "keep_lr", **about: Unpack[CommandOptions]
    ) -> CommandReceipt:
        """The run is `total` epochs long now.

        continuity: `keep_lr` goes on from the rate in force, `keep_fraction` from the same part of the curve,
            `restart` from the beginning of it.
        """
        return self.command("extend", total=total, continuity=continuity, **about)

    def stop(self, **about: Unpack[CommandOptions]) -> CommandReceipt:
        """Tell the trainer to end after the epoch it is in."""
        return self.command("stop", **about)

    def note(self, text: str, **about: Unpack[CommandOptions]) -> CommandReceipt:
        """A remark for the log, that changes nothing."""
        return self.command("note", text=text, **about)

    def cancel(self, seq: int, **about: Unpack[CommandOptions]) -> CommandReceipt:
        """The order of that number, not yet delivered, is as if it had never been given."""
        return self.command("cancel", seq=seq, **about)

    def command(
        self,
        order: OperatorCommandType,
        *,
        reason: str | None = None,
        actor: str | None = None,
        key: str | None = None,
        expected_seq: int | None = None,
        timeout_s: float | None = None,
        **members: Any,
    ) -> CommandReceipt:
        """Any order, with its members by their names on the wire. Gives its number and the epoch it holds from."""
        # Always a key: an order given twice because its answer was lost must count once.
        told = {**members, "reason": reason, "actor": actor, "key": key or uuid.uuid4().hex}
        request = requests.command(self.key, {"type": order, **told, "expected_seq": expected_seq})
        return self._service.call(request, responses.read_receipt, timeout_s)


def _document(policy: Policy | Mapping[str, Any]) -> Mapping[str, Any]:
    return policy_to_json(policy) if isinstance(policy, Policy) else policy


FinalStatus = Literal["completed", "failed", "stopped"]

# The largest page the service gives.
PAGE = 200

# How often the other ranks of a run are asked after, when the service does not say.
_POLL_S = 1.0

# Less time than this is not worth asking in: what is slow to answer is not away.
_WORTH_ASKING_S = 0.5


class Run(RunCommands):
    """One training job, as this process sees it.

    >>> from remotelr import Client
    >>> from remotelr.testing import InMemoryService
    >>> service = InMemoryService()
    >>> client = Client(service.url, transport=service)
    >>> run = client.run("mnist-7", policy={"type": "reduce_on_plateau", "patience": 1}, initial_learning_rate=0.1)
    >>> decision = run.begin(epoch=0)
    >>> for val_loss in (0.7, 0.4, 0.4):
    ...     decision = run.report(decision.epoch, {"val_loss": val_loss}, learning_rate=decision.learning_rate)
    >>> round(decision.learning_rate, 6), decision.reason, decision.changed
    (0.01, 'plateau', True)
    >>> run.scale(0.5, reason="to be careful").effective_from
    4
    >>> run.finish()
    >>> run.view.status
    'completed'

    key: its name. view: what the service last said of it. decision: the newest decision known here.
    attempt: the number of the attempt this process began, else None.
    """

    def __init__(self, service: Service, view: RunView) -> None:
        self.key = view.key
        self.view = view
        self.attempt: int | None = None
        self._service = service
        self._plan = Plan(view.spec)
        self.decision = planned(view.decision, self._plan)

    @property
    def policy(self) -> Policy:
        """The run's policy with its rates and lengths filled in. Raises InvalidPolicy for one that is newer than us."""
        return self._plan.policy

    def begin(
        self,
        epoch: int,
        key: str | None = None,
        step: int | None = None,
        *,
        world_size: int | None = None,
        gap: bool = False,
        last_seq: int | None = None,
        timeout_s: float | None = None,
    ) -> Decision:
        """The decision for `epoch` (0-based), at which this process starts or starts again.

        The run goes back to what it was before that epoch was reported, and older attempts are told to stop.
        key: the same key is the same attempt; one for all ranks of a run. Random when not given.
        step: optimizer steps made before that epoch, where the service cannot know.
        world_size: how many ranks the run has from now on; absent, as many as before.
        gap: accept that epochs before it were never reported.
        last_seq: number of the newest decision an earlier life of this process held, so that a service which
            has lost it says so.

        Raises StaleAttempt, ServiceRefused (`server_behind`, `attempt_conflict`…) and ServiceUnreachable.
        """
        members = {
            "key": key or uuid.uuid4().hex,
            "epoch": epoch,
            "step": step,
            "world_size": world_size,
            "gap": gap or None,
            "last_seq": last_seq,
        }
        told = self._service.call(requests.begin_attempt(self.key, members), responses.read_attempt, timeout_s)
        self.attempt = told.attempt
        if world_size is not None:
            self.view = replace(self.view, spec={**self.view.spec, "world_size": world_size})
        return self._hold(told, timeout_s)

    def report(
        self,
        epoch: int,
        metrics: Mapping[str, float | None],
        *,
        rank: int | None = None,
        weight: float | None = None,
        step: int | None = None,
        learning_rate: float | None = None,
        local: bool = False,
        wait_s: float = 60.0,
        timeout_s: float | None = None,
    ) -> Decision:
        """The decision for the epoch after `epoch`, which ended with `metrics`.

        metrics: name to value; NaN and the infinities are values, None was not measured.
        rank: which rank of the run reports (0). weight: samples behind the metrics, where ranks differ.
        step: optimizer steps made by the end of the epoch; needed for a policy that counts steps when the
            run has no steps_per_epoch. learning_rate: the rate really used; a difference is noted.
        local: that rate was decided here, by the same rules, because the service could not be reached.
        wait_s: how long to wait for the other ranks of the run, all tries together. Only the first one, which tells
            what there is to tell, has all of `timeout_s`.

        A report may be repeated: the same point gets the same decision. Raises StaleAttempt,
        ServiceRefused (`report_conflict`, `out_of_order`, `run_finished`…), RanksMissing and ServiceUnreachable.
        """
        members = {
            "epoch": epoch,
            "attempt": self.attempt,
            "rank": rank,
            "weight": weight,
            "step": step,
            "learning_rate": learning_rate,
            "local": local or None,
            "last_seq": self.decision.seq,
        }
        request = requests.report(self.key, metrics, members)
        began, asked = time.monotonic(), 0
        left_s = budget_s = self._service.timeout_s if timeout_s is None else timeout_s
        while True:
            answer = self._service.call(request, responses.read_answer, min(budget_s, left_s))
            if not isinstance(answer, Waiting):
                return self._hold(answer, timeout_s)
            asked, waited_s = asked + 1, time.monotonic() - began
            left_s = wait_s - waited_s - _POLL_S
            if left_s < _WORTH_ASKING_S:
                raise RanksMissing(self._service.transport.url, asked, waited_s, answer.have, answer.need)
            time.sleep(_POLL_S)

    def report_batch(
        self, reports: Sequence[Report], *, timeout_s: float | None = None
    ) -> list[Decision | Waiting | ServiceRefused]:
        """The answers to reports that could not be sent before, oldest first, as if they had come one by one.

        reports: at most 1000, of `remotelr.rules`. The first that is refused is the last to be answered:
        those behind it were not tried. Raises ServiceRefused (`invalid_request`: one of them cannot be a
        report) and ServiceUnreachable.
        """
        told = self._service.call(requests.report_batch(self.key, reports), responses.read_batch, timeout_s)
        answers = [planned(each, self._plan) if isinstance(each, rules.Decision) else each for each in told]
        self.decision = next((each for each in reversed(answers) if isinstance(each, Decision)), self.decision)
        return answers

    def current_decision(
        self, *, after: int | None = None, wait_s: float | None = None, timeout_s: float | None = None
    ) -> Decision | None:
        """The decision in force.

        after: only a newer one than this `seq`; waits up to wait_s seconds for it, and gives None when none came.
        """
        budget_s = (self._service.timeout_s if timeout_s is None else timeout_s) + (wait_s or 0.0)
        request = requests.get_decision(self.key, after=after, wait_s=wait_s)
        decision = self._service.call(request, responses.read_decision, budget_s)
        return None if after is not None and decision.seq <= after else planned(decision, self._plan)

    def finish(
        self, status: FinalStatus = "completed", *, last_seq: int | None = None, timeout_s: float | None = None
    ) -> None:
        """Say that the run has ended. last_seq: number of the newest decision held here.

        Raises ServiceRefused (`run_finished`: otherwise; `server_behind`) and ServiceUnreachable.
        """
        self.view = self._service.call(requests.finish(self.key, status, last_seq), responses.read_run, timeout_s)

    def refresh(self, *, timeout_s: float | None = None) -> None:
        """Read the run anew: its policy, and where it stands."""
        self.view = self._service.call(requests.get_run(self.key), responses.read_run, timeout_s)
        self._plan = Plan(self.view.spec)

    def history(self) -> Iterator[ReportRecord]:
        """The reports in the order they came, those a rewind undid marked; fetched page by page as they are needed."""
        after: int | None = None
        while True:
            page = self._service.call(requests.history(self.key, after=after, limit=PAGE), responses.read_history)
            yield from page.items
            after = page.next
            if after is None:
                return

    def _hold(self, told: rules.Decision, timeout_s: float | None) -> Decision:
        """The decision, with the policy it was made from: somebody may have given the run another one since."""
        more = told.seq - self.decision.seq > int(self.view.spec["world_size"])
        if self._plan.counts_steps and (more or not self._plan.agrees_with(told)):
            with suppress(RemoteLRError):
                self.refresh(timeout_s=timeout_s)
        self.decision = planned(told, self._plan)
        return self.decision
