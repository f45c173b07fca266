"""Begins attempts of runs."""

from remotelr import rules
from remotelr.rules import AttemptRequest, Command, Decision, Limits
from remotelr_service.db.queries.experiments import lock_experiment
from remotelr_service.db.queries.runs import StoredRun
from remotelr_service.db.writer.transaction import WriteTransaction
from remotelr_service.db.writer.writer import Writer
from remotelr_service.features.training.override_expiry import expire_overrides


async def begin_attempt(writer: Writer, key: str, request: AttemptRequest) -> Decision:
    """Begin an attempt, or return the attempt with the same key. Older attempts are fenced from now on.

    Returns: the decision for the attempt's first epoch; `decision.attempt` is the attempt's number.
    Raises RunNotFound, and the errors of `remotelr.rules.begin_attempt`.
    """

    def action(tx: WriteTransaction) -> Decision:
        stored = _with_current_limits(tx, expire_overrides(tx, tx.get(key)))
        outcome = rules.begin_attempt(stored.run, request, tx.log(key))
        tx.append(stored, outcome)
        assert isinstance(outcome.answer, Decision), "the answer to an attempt is a decision"
        return outcome.answer

    return await writer.submit(action, key)


def _with_current_limits(tx: WriteTransaction, stored: StoredRun) -> StoredRun:
    """The run with its experiment's limits. A finished run does not get changes of the limits."""
    if stored.run.status == "running" or stored.experiment is None:
        return stored
    experiment = lock_experiment(tx.connection, stored.experiment, shared=True)
    limits = Limits.from_json(experiment.limits if experiment else None)
    if limits == stored.run.spec.limits:
        return stored
    command = Command(type="limits", limits=limits, actor="remotelr", reason="the run begins again")
    return tx.append(stored, rules.command(stored.run, command, tx.log(stored.run.key)))
