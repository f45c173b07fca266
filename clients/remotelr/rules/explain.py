"""What happened to a run, as one English sentence."""

from remotelr.rules.decision import Decision
from remotelr.rules.log import Event


def sentence(of: Event | Decision) -> str:
    """What an event did, or why a decision gives its rate, as one sentence that ends in a full stop."""
    decision = of if isinstance(of, Decision) else of.decision
    if decision is None:
        assert isinstance(of, Event)
        return f"{of.kind} was noted from epoch {of.holds_from} on."
    return f"Epoch {decision.epoch} trains with {decision.learning_rate!r} ({decision.reason})."
