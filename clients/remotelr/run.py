"""`Run`, one training job: the calls of its trainer and the commands of its operators."""

import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, TypedDict, Unpack

from remotelr import rules
from remotelr._http import display, requests, responses
from remotelr._http.caller import Service
from remotelr._http.responses import CommandReceipt, ReportRecord, RunView
from remotelr.decision import Decision, Plan, planned
from remotelr.errors import RanksMissing, RemoteLRError, ServiceRefused
from remotelr.rules import Policy, Report, Waiting, policy_to_json
from remotelr.rules.run.command import Continuity, Mode, OperatorCommandType, StateMode
from remotelr.rules.run.model import FinalStatus


class CommandOptions(TypedDict, total=False):
    """The options of every command.

    reason, actor: for the log (with a token, the service logs the token's name as the actor).
    key: two commands with the same key are one command; random by default.
    expected_seq: the `seq` of the newest known event; the service rejects the command if there is a newer one.
    timeout_s: the budget of this call; by default the client's.
    """

    reason: str | None
    actor: str | None
    key: str | None
    expected_seq: int | None
    timeout_s: float | None


class RunCommands:
    """The commands to the run `key`. A command affects the first epoch without a decision.

    Every command takes `CommandOptions`.

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
        **options: Unpack[CommandOptions],
    ) -> CommandReceipt:
        """Set the rate.

        mode: `pin` holds it instead of the schedule's rate, `one_shot` holds it for one epoch, `rebase` lets the
            schedule continue from it.
        until_epoch: the first epoch with the schedule's rate again. until_time: the time of that, in ISO 8601 with
            an offset.
        """
        until = {"epoch": until_epoch} if until_time is None else {"time": until_time}
        unlimited = until_epoch is None and until_time is None
        return self.command("set_learning_rate", value=value, mode=mode, until=None if unlimited else until, **options)

    def scale(self, factor: float, **options: Unpack[CommandOptions]) -> CommandReceipt:
        """Multiply the rate in force."""
        return self.command("scale", factor=factor, **options)

    def release(self, **options: Unpack[CommandOptions]) -> CommandReceipt:
        """Remove all overrides and the command to stop."""
        return self.command("release", **options)

    def pause(self, **options: Unpack[CommandOptions]) -> CommandReceipt:
        """Hold the rate in force and stop the schedule's clock."""
        return self.command("pause", **options)

    def resume_schedule(self, **options: Unpack[CommandOptions]) -> CommandReceipt:
        """Let the schedule continue where it was paused."""
        return self.command("resume_schedule", **options)

    def replace_policy(
        self, policy: Policy | Mapping[str, Any], *, state: StateMode = "keep", **options: Unpack[CommandOptions]
    ) -> CommandReceipt:
        """Replace the policy. state: `keep` the schedule's state if the new policy has its shape, or `reset` it."""
        return self.command("replace_policy", policy=policy_document(policy), state=state, **options)

    def extend(
        self, total: int, *, continuity: Continuity = "keep_lr", **options: Unpack[CommandOptions]
    ) -> CommandReceipt:
        """Change the run's length to `total` epochs.

        continuity: `keep_lr` continues from the rate in force, `keep_fraction` from the same fraction of the curve,
            `restart` from its beginning.
        """
        return self.command("extend", total=total, continuity=continuity, **options)

    def stop(self, **options: Unpack[CommandOptions]) -> CommandReceipt:
        """End the training after the current epoch."""
        return self.command("stop", **options)

    def note(self, text: str, **options: Unpack[CommandOptions]) -> CommandReceipt:
        """Add a remark to the log."""
        return self.command("note", text=text, **options)

    def cancel(self, seq: int, **options: Unpack[CommandOptions]) -> CommandReceipt:
        """Cancel the command with that `seq`, unless it was delivered."""
        return self.command("cancel", seq=seq, **options)

    def command(
        self,
        type: OperatorCommandType,
        *,
        reason: str | None = None,
        actor: str | None = None,
        key: str | None = None,
        expected_seq: int | None = None,
        timeout_s: float | None = None,
        **members: Any,
    ) -> CommandReceipt:
        """Send a command. members: by their names in the HTTP API."""
        # Always with a key: a retry after a lost response must not be a second command.
        body = {**members, "reason": reason, "actor": actor, "key": key or uuid.uuid4().hex}
        request = requests.command(self.key, {"type": type, **body, "expected_seq": expected_seq})
        return self._service.call(request, responses.of_run(self.key, responses.read_receipt), timeout_s)


def policy_document(policy: Policy | Mapping[str, Any]) -> Mapping[str, Any]:
    """The JSON of `policy`. Raises TypeError for any other type, with the remedy."""
    if isinstance(policy, Policy):
        return policy_to_json(policy)
    if isinstance(policy, Mapping):
        return policy
    raise TypeError(
        f"policy must be a document or a policy of remotelr.rules, got {policy!r:.100}; give a document such as "
        f"{{'type': 'cosine', 'decay_steps': 20}}"
    )


# The service's largest page.
PAGE = 200

# The pause between two requests while other ranks are missing.
_POLL_S = 1.0

# With less time left than this there is no further request: a slow answer would count as an outage.
_SHORTEST_WAIT_S = 0.5


class Run(RunCommands):
    """One training job.

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

    key: of the run. view: the service's last description. decision: the newest decision of this object.
    attempt: the number of the attempt that this object began, else None.
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
        """The policy with its rates and lengths. Raises InvalidPolicy for a policy newer than this package."""
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
        """Begin an attempt at `epoch` (0-based); returns the decision for it.

        The run is rewound to its state before that epoch was reported, and the service rejects older attempts.

        key: identifies the attempt, equal in all ranks of the run; random by default.
        step: optimizer steps made before that epoch, if the service cannot know.
        world_size: the number of ranks from now on; by default unchanged.
        gap: accept that epochs before it were not reported.
        last_seq: of the newest decision of an earlier process; a service that has lost it answers `server_behind`.

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
        request = requests.begin_attempt(self.key, members)
        decision = self._service.call(request, responses.of_run(self.key, responses.read_attempt), timeout_s)
        self.attempt = decision.attempt
        if world_size is not None:
            self.view = replace(self.view, spec={**self.view.spec, "world_size": world_size})
        return self._hold(decision, timeout_s)

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
        """Report the metrics of `epoch`; returns the decision for the next epoch.

        metrics: by name; NaN and the infinities are values, None is left out.
        rank: of this process, 0 by default. weight: samples behind the metrics, if ranks differ.
        step: optimizer steps by the end of the epoch; required for a policy that counts steps if the run has no
            steps_per_epoch. learning_rate: the rate that was used; the service logs a drift.
        local: that rate was decided by the local rules while the service was unreachable.
        wait_s: how long to wait for the other ranks, in all tries. Only the first try has all of `timeout_s`.

        A repeated report gets the same decision. Raises StaleAttempt, ServiceRefused (`report_conflict`,
        `out_of_order`, `run_finished`…), RanksMissing and ServiceUnreachable.
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

        def read(document: requests.Json) -> rules.Decision | Waiting:
            return responses.of_attempt(self.attempt, responses.read_answer(document))

        began, tries = time.monotonic(), 0
        left_s = budget_s = self._service.timeout_s if timeout_s is None else timeout_s
        while True:
            answer = self._service.call(request, responses.of_run(self.key, read), min(budget_s, left_s))
            if not isinstance(answer, Waiting):
                return self._hold(answer, timeout_s)
            tries, waited_s = tries + 1, time.monotonic() - began
            left_s = wait_s - waited_s - _POLL_S
            if left_s < _SHORTEST_WAIT_S:
                raise RanksMissing(self._service.transport.url, tries, waited_s, answer.have, answer.need)
            time.sleep(_POLL_S)

    def report_batch(
        self, reports: Sequence[Report], *, timeout_s: float | None = None
    ) -> list[Decision | Waiting | ServiceRefused]:
        """Send reports of an outage, oldest first; returns one answer each, as if they had been sent one by one.

        reports: at most 1000, of `remotelr.rules`. The answers end with the first refusal; the reports after it are
            not processed.

        Raises ServiceRefused (`invalid_request`: a report is malformed) and ServiceUnreachable.
        """
        request = requests.report_batch(self.key, reports)
        batch = self._service.call(request, responses.of_run(self.key, responses.read_batch), timeout_s)
        answers = [planned(each, self._plan) if isinstance(each, rules.Decision) else each for each in batch]
        self.decision = next((each for each in reversed(answers) if isinstance(each, Decision)), self.decision)
        return answers

    def current_decision(
        self, *, after: int | None = None, wait_s: float | None = None, timeout_s: float | None = None
    ) -> Decision | None:
        """The decision in force.

        after: only a decision with a greater `seq`; waits up to wait_s seconds for it, then returns None.
        """
        budget_s = (self._service.timeout_s if timeout_s is None else timeout_s) + (wait_s or 0.0)
        request = requests.get_decision(self.key, after=after, wait_s=wait_s)
        decision = self._service.call(request, responses.of_run(self.key, responses.read_decision), budget_s)
        return None if after is not None and decision.seq <= after else planned(decision, self._plan)

    def finish(
        self, status: FinalStatus = "completed", *, last_seq: int | None = None, timeout_s: float | None = None
    ) -> None:
        """End the run. last_seq: of the newest decision of this process.

        Raises ServiceRefused (`run_finished`: with another status; `server_behind`) and ServiceUnreachable.
        """
        request = requests.finish(self.key, status, last_seq)
        self.view = self._service.call(request, responses.of_run(self.key, responses.read_run), timeout_s)

    def refresh(self, *, timeout_s: float | None = None) -> None:
        """Read the run again into `view` and `policy`."""
        read = responses.of_run(self.key, responses.read_run)
        self.view = self._service.call(requests.get_run(self.key), read, timeout_s)
        self._plan = Plan(self.view.spec)

    def __repr__(self) -> str:
        return f"<Run {self.key!r} on {self._service.transport.url}: {self.view.status}, epoch {self.view.epoch}>"

    def _repr_html_(self) -> str:
        rows: list[ReportRecord] = []
        # A notebook shows what is known also when the service is away.
        with suppress(RemoteLRError):
            self.refresh()
            rows = list(self.history(superseded=False))
        return display.run_html(self.view, rows, self._service.transport.url)

    def to_dataframe(self, *, superseded: bool = False) -> Any:
        """The reports as a pandas DataFrame, with a column for each metric. Raises ImportError without pandas."""
        return display.to_dataframe(list(self.history(superseded=superseded)))

    def plot(self) -> Any:
        """The rates and metrics as a matplotlib figure. Raises ImportError without matplotlib."""
        return display.plot(list(self.history(superseded=False)), f"run {self.key}")

    def history(self, *, superseded: bool = True) -> Iterator[ReportRecord]:
        """The reports in order of arrival; fetched page by page. superseded: with those that were rewound."""
        after: int | None = None
        while True:
            request = requests.history(self.key, after=after, limit=PAGE)
            page = self._service.call(request, responses.of_run(self.key, responses.read_history))
            yield from (row for row in page.items if superseded or row.superseded_by is None)
            after = page.next
            if after is None:
                return

    def _hold(self, decision: rules.Decision, timeout_s: float | None) -> Decision:
        """The decision with the policy that it was made from, which an operator may have replaced."""
        more = decision.seq - self.decision.seq > int(self.view.spec["world_size"])
        if self._plan.counts_steps and (more or not self._plan.agrees_with(decision)):
            with suppress(RemoteLRError):
                self.refresh(timeout_s=timeout_s)
        self.decision = planned(decision, self._plan)
        return self.decision
