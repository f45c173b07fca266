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

    def action(tx: WriteTransaction) -> Decision:
        stored = _with_current_limits(tx, expire_overrides(tx, tx.get(key)))
        outcome = rules.begin_attempt(stored.run, request, tx.log(key))
        tx.append(stored, outcome)
        assert isinstance(outcome.answer, Decision), "an attempt is always answered with a decision"
        return outcome.answer

    return await writer.submit(action, key)


def _with_current_limits(tx: WriteTransaction, stored: StoredRun) -> StoredRun:
    """The run with the limits of its experiment: a run that had ended was not told when they changed."""
    if stored.run.status == "running" or stored.experiment is None:
        return stored
    experiment = lock_experiment(tx.connection, stored.experiment, shared=True)
    limits = Limits.from_json(experiment.limits if experiment else None)
    if limits == stored.run.spec.limits:
        return stored
    order = Command(type="limits", limits=limits, actor="remotelr", reason="the run begins again")
    return tx.append(stored, rules.command(stored.run, order, tx.log(stored.run.key)))
