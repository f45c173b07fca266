"""Attempts: a trainer group begins, or begins again."""

from remotelr import rules
from remotelr.rules import AttemptRequest, Decision
from remotelr_service.actions.finding import locked_run
from remotelr_service.db.group import Group
from remotelr_service.db.writer import Writer


async def begin_attempt(writer: Writer, key: str, request: AttemptRequest) -> Decision:
    """The decision for the attempt's first epoch; `decision.attempt` is its number. The same key is the same attempt.

    Every older attempt is fenced off from now on. Raises RunNotFound, and what `remotelr.rules.begin_attempt` does.
    """

    def action(group: Group) -> Decision:
        head = locked_run(group, key)
        outcome = rules.begin_attempt(head.run, request, group.log(key))
        group.append(head, outcome)
        assert isinstance(outcome.answer, Decision), "an attempt is always answered with a decision"
        return outcome.answer

    return await writer.submit(action, key)
