"""The service, for a trainer's own loop: `Client` finds it, `Run` is one training job, `Decision` what it is told.

    with Client("http://127.0.0.1:8000") as client:
        run = client.run("mnist-7", policy={"type": "reduce_on_plateau", "patience": 3}, initial_learning_rate=0.01)
        decision = run.begin(epoch=0)
        while decision.action == "continue" and decision.epoch < 20:
            val_loss = train_one_epoch(decision.learning_rate)
            decision = run.report(decision.epoch, {"val_loss": val_loss})
        run.finish()

Calls either give what the service decided or raise ServiceUnreachable or ServiceRefused; each asks
again, within one budget, what may be asked again. This module sends and sleeps, and does nothing else.
"""

import random
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from math import isclose
from types import TracebackType
from typing import Any, Literal, Self, TypeVar

from remotelr import _wire
from remotelr._retry import RETRIED_STATUSES, SHORTEST_TRY_S, Failure, Retries, retry_after_s
from remotelr._transport import HttpTransport, NoAnswer, Transport
from remotelr._wire import Commanded, Json, Order, Reported, Request, RunView, Unreadable
from remotelr.errors import RanksMissing, ServiceRefused, ServiceUnreachable
from remotelr.rules import (
    Decision,
    Policy,
    Report,
    RulesError,
    RunSpec,
    RunState,
    Waiting,
    policy_from_json,
    policy_to_json,
    rate_at,
)

OnConflict = Literal["error", "keep", "replace", "restart"]
FinalStatus = Literal["completed", "failed", "stopped"]

# The largest page the service gives.
PAGE = 200

T = TypeVar("T")

# Not the module's shared generator: a seeded training must not notice that we threw dice.
_DICE = random.SystemRandom()

# How often the other ranks of a run are asked after, when the service does not say.
_POLL_S = 1.0


class Client:
    """A RemoteLR service.

    url: its address, `http://127.0.0.1:8000`.
    timeout_s: budget of one call, over all its tries and the pauses between them. It holds: whatever
        the network does, the call ends by then.
    headers: sent with every request. proxy, verify, trust_env: as httpx has them.
    transport: what carries requests instead of HTTP, for tests.

    A client may be shared between threads. It opens no connection before its first call; as a context
    manager it closes them at the end.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout_s: float = 5.0,
        headers: Mapping[str, str] | None = None,
        proxy: str | None = None,
        verify: Any = True,
        trust_env: bool = True,
        transport: Transport | None = None,
    ) -> None:
        if not url.startswith(("http://", "https://")):
            raise ValueError(f"the service's address begins with http:// or https://, not {url!r}")
        if not timeout_s > 0:
            raise ValueError(f"timeout_s is a time in seconds, > 0, not {timeout_s!r}")
        self.url = url
        self.timeout_s = timeout_s
        self._service = _Service(
            transport or HttpTransport(url, headers=headers, proxy=proxy, verify=verify, trust_env=trust_env), timeout_s
        )

    def run(
        self,
        key: str,
        *,
        policy: Policy | Mapping[str, Any],
        initial_learning_rate: float | None = None,
        experiment: str | None = None,
        tags: Mapping[str, str] | None = None,
        world_size: int | None = None,
        steps_per_epoch: int | None = None,
        total_epochs: int | None = None,
        on_conflict: OnConflict | None = None,
        timeout_s: float | None = None,
    ) -> "Run":
        """The run of that key, created where there is none.

        policy: a document (`{"type": "cosine", …}`), or a policy of `remotelr.rules`.
        initial_learning_rate: the trainer's own rate; needed where the policy names none.
        world_size: ranks of the run. steps_per_epoch, total_epochs: lengths, where known.
        on_conflict: what to do when the run exists with another policy: `error` (default), `keep` its own,
            `replace` it and keep what a plateau remembers, `restart` with a fresh state.

        Raises ServiceRefused (`invalid_policy`, `policy_conflict`…) and ServiceUnreachable.
        """
        members = {
            "policy": policy_to_json(policy) if isinstance(policy, Policy) else policy,
            "initial_learning_rate": initial_learning_rate,
            "experiment": experiment,
            "tags": tags,
            "world_size": world_size,
            "steps_per_epoch": steps_per_epoch,
            "total_epochs": total_epochs,
            "on_conflict": on_conflict,
        }
        return Run(self._service, self._service.ask(_wire.put_run(key, members), _wire.read_run, timeout_s))

    def get_run(self, key: str, *, timeout_s: float | None = None) -> "Run":
        """The run of that key, which exists. Raises ServiceRefused (`run_not_found`) and ServiceUnreachable."""
        return Run(self._service, self._service.ask(_wire.get_run(key), _wire.read_run, timeout_s))

    def runs(
        self, *, experiment: str | None = None, status: str | None = None, tag: str | None = None
    ) -> Iterator["Run"]:
        """The runs in order of their keys, fetched page by page as they are asked for.

        status: `running`, `completed`, `failed` or `stopped`. tag: `name:value`.
        """
        after: str | None = None
        while True:
            request = _wire.list_runs(experiment=experiment, status=status, tag=tag, after=after, limit=PAGE)
            page = self._service.ask(request, _wire.read_runs)
            for view in page.items:
                yield Run(self._service, view)
            after = page.next
            if after is None:
                return

    def answers(self, key: str, *, timeout_s: float) -> bool:
        """Whether the service says anything of the run of that key: one try, and no other."""
        return self._service.answers(_wire.get_run(key), timeout_s)

    @property
    def transport(self) -> Transport:
        """What carries the requests."""
        return self._service.transport

    def close(self) -> None:
        """Let go of the connection. The client can be used again; it then opens a new one."""
        self._service.transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class _Service:
    """What `Client` and `Run` ask through: sends, and sends again while that may help."""

    def __init__(self, transport: Transport, timeout_s: float) -> None:
        self.transport = transport
        self.timeout_s = timeout_s

    def ask(self, request: Request, read: Callable[[Json], T], timeout_s: float | None = None) -> T:
        """What the service answers, within `timeout_s` over all tries. Raises ServiceRefused, ServiceUnreachable."""
        budget_s = self.timeout_s if timeout_s is None else timeout_s
        began = time.monotonic()
        retries = Retries()
        while True:
            answer = self._try(request, read, began + budget_s - time.monotonic())
            if not isinstance(answer, Failure):
                return answer
            waited_s = time.monotonic() - began
            retries = retries.after(answer, remaining_s=budget_s - waited_s, dice=_DICE.random())
            if retries.pause_s is None:
                raise ServiceUnreachable(self.transport.url, retries.failures, answer.reason, waited_s)
            time.sleep(retries.pause_s)

    def answers(self, request: Request, timeout_s: float) -> bool:
        """Whether one try gets an answer."""
        try:
            return not isinstance(self._try(request, dict, timeout_s), Failure)
        except ServiceRefused:
            return True

    def _try(self, request: Request, read: Callable[[Json], T], timeout_s: float) -> T | Failure:
        try:
            response = self.transport.send(request, max(timeout_s, SHORTEST_TRY_S))
            if response.status in RETRIED_STATUSES:
                pause_s = retry_after_s(response.headers.get("retry-after"))
                return Failure(reason=_wire.trouble(response), retry_after_s=pause_s)
            return read(_wire.read(response))
        except NoAnswer as error:
            return Failure(reason=error.reason, reused=error.reused)
        except Unreadable as error:
            return Failure(reason=str(error))


class Run:
    """One training job, as this process sees it.

    key: its name. view: what the service last said of it. decision: the newest decision known here.
    attempt: the number of the attempt this process began, else None.
    """

    def __init__(self, service: "_Service", view: RunView) -> None:
        self.key = view.key
        self.view = view
        self.decision = view.decision
        self.attempt: int | None = None
        self._service = service
        self._policy: Policy | None = None

    @property
    def policy(self) -> Policy:
        """The run's policy with its rates and lengths filled in. Raises InvalidPolicy for one that is newer than us."""
        if self._policy is None:
            spec = {**self.view.spec, "policy": policy_from_json(self.view.spec["policy"])}
            self._policy = RunSpec(**spec).bound()
        return self._policy

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
        decision = self._service.ask(_wire.begin_attempt(self.key, members), _wire.read_attempt, timeout_s)
        self.attempt = decision.attempt
        self.decision = decision
        return decision

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
        wait_s: how long to wait for the other ranks of the run.

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
        request = _wire.report(self.key, metrics, members)
        began, asked = time.monotonic(), 0
        while True:
            answer = self._service.ask(request, _wire.read_answer, timeout_s)
            if isinstance(answer, Decision):
                self.decision = answer
                return answer
            asked, waited_s = asked + 1, time.monotonic() - began
            if waited_s + _POLL_S > wait_s:
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
        answers = self._service.ask(_wire.report_batch(self.key, reports), _wire.read_batch, timeout_s)
        decisions = [answer for answer in answers if isinstance(answer, Decision)]
        self.decision = decisions[-1] if decisions else self.decision
        return answers

    def learning_rate_at(self, decision: Decision, step: int) -> float:
        """The rate at `step` optimizer steps after the beginning of the decision's epoch, without asking anybody.

        For a policy whose unit is the epoch it is the decision's own. Raises InvalidPolicy for a policy
        that is newer than this package.
        """
        return self._rate(decision, step) if self.counts_steps else decision.learning_rate

    @property
    def counts_steps(self) -> bool:
        """The unit of the run's policy is the optimizer step."""
        return bool(self.view.spec["policy"].get("unit") == "step")

    def agrees_with(self, decision: Decision) -> bool:
        """The policy known here gives the decision's rate. If not, `refresh`: the run has been given another one."""
        try:
            ours = self._rate(decision, 0)
        except (RulesError, LookupError, TypeError, ValueError):
            return False
        return isclose(ours, decision.learning_rate, rel_tol=1e-9)

    def _rate(self, decision: Decision, step: int) -> float:
        position = (decision.step or 0) + step if self.counts_steps else decision.epoch
        return rate_at(self.policy, RunState.from_json(decision.state), decision.epoch, float(position)).learning_rate

    def current_decision(
        self, *, after: int | None = None, wait_s: float | None = None, timeout_s: float | None = None
    ) -> Decision | None:
        """The decision in force.

        after: only a newer one than this `seq`; waits up to wait_s seconds for it, and gives None when none came.
        """
        budget_s = (self._service.timeout_s if timeout_s is None else timeout_s) + (wait_s or 0.0)
        request = _wire.get_decision(self.key, after=after, wait_s=wait_s)
        decision = self._service.ask(request, _wire.read_decision, budget_s)
        return None if after is not None and decision.seq <= after else decision

    def set_learning_rate(self, value: float, *, reason: str | None = None, key: str | None = None) -> Commanded:
        """Hold this rate, whatever the schedule says, from the first epoch that has none yet."""
        return self.command("set_learning_rate", value, reason=reason, key=key)

    def scale(self, factor: float, *, reason: str | None = None, key: str | None = None) -> Commanded:
        """Multiply what is in force, from the first epoch that has no rate yet."""
        return self.command("scale", factor, reason=reason, key=key)

    def release(self, *, reason: str | None = None, key: str | None = None) -> Commanded:
        """Back to the policy's own curve, and no longer told to stop."""
        return self.command("release", reason=reason, key=key)

    def stop(self, *, reason: str | None = None, key: str | None = None) -> Commanded:
        """Tell the trainer to end after the epoch it is in."""
        return self.command("stop", reason=reason, key=key)

    def command(
        self,
        order: Order,
        value: float | None = None,
        *,
        reason: str | None = None,
        actor: str | None = None,
        key: str | None = None,
        timeout_s: float | None = None,
    ) -> Commanded:
        """The command as noted, and the epoch it holds from.

        reason, actor: for the log: why, and who. key: the same key is the same command; random when not given.
        Raises ServiceRefused (`invalid_command`) and ServiceUnreachable.
        """
        # Always a key: a command asked for twice because its answer was lost must count once.
        members = {"type": order, "value": value, "reason": reason, "actor": actor, "key": key or uuid.uuid4().hex}
        return self._service.ask(_wire.command(self.key, members), _wire.read_commanded, timeout_s)

    def finish(self, status: FinalStatus = "completed", *, timeout_s: float | None = None) -> None:
        """Say that the run has ended. Raises ServiceRefused (`run_finished`: otherwise) and ServiceUnreachable."""
        self.view = self._service.ask(_wire.finish(self.key, status), _wire.read_run, timeout_s)

    def refresh(self, *, timeout_s: float | None = None) -> None:
        """Read the run anew: its policy, and where it stands."""
        self.view = self._service.ask(_wire.get_run(self.key), _wire.read_run, timeout_s)
        self._policy = None

    def history(self) -> Iterator[Reported]:
        """The reports in the order they came, those a rewind undid marked; fetched page by page as they are needed."""
        after: int | None = None
        while True:
            page = self._service.ask(_wire.history(self.key, after=after, limit=PAGE), _wire.read_history)
            yield from page.items
            after = page.next
            if after is None:
                return
