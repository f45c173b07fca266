"""Attempts: a trainer group begins, or begins again."""

from remotelr import rules
from remotelr.rules import AttemptRequest, Command, Decision, Limits
from remotelr_service.db.queries.experiments import lock_experiment
from remotelr_service.db.queries.runs import StoredRun
from remotelr_service.db.writer.transaction import WriteTransaction
from remotelr_service.db.writer.writer import Writer
from remotelr_service.features.training.override_expiry import expire_overrides


async def begin_attempt(writer: Writer, key: str, request: AttemptRequest) -> Decision:
    """The decision for the attempt's first epoch; `decision.attempt` is its number. The same key is the same attempt.

    Every older attempt is fenced off from now on. Raises RunNotFound, and what `remotelr.rules.begin_attempt` does.
    """

    def action(group: WriteTransaction) -> Decision:
        head = _with_current_limits(group, expire_overrides(group, group.get(key)))
        outcome = rules.begin_attempt(head.run, request, group.log(key))
        group.append(head, outcome)
        assert isinstance(outcome.answer, Decision), "an attempt is always answered with a decision"
        return outcome.answer

    return await writer.submit(action, key)


def _with_current_limits(group: WriteTransaction, head: StoredRun) -> StoredRun:
    """The run with the limits of its experiment: a run that had ended was not told when they changed."""
    if head.run.status == "running" or head.experiment is None:
        return head
    experiment = lock_experiment(group.connection, head.experiment, shared=True)
    limits = Limits.from_json(experiment.limits if experiment else None)
    if limits == head.run.spec.limits:
        return head
    order = Command(type="limits", limits=limits, actor="remotelr", reason="the run begins again")
    return group.append(head, rules.command(head.run, order, group.log(head.run.key)))
