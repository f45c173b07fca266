"""What the commands feature returns."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from remotelr.rules import Command
from remotelr.rules.commands.status import CommandState


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandStep:
    """One step in the life of a command.

    seq: number of the event that brought it. epoch, rate: of `delivered` the epoch it was told for and its rate;
    of `applied` and `rejected` the one really used, where the trainer says it.
    actor: who ordered what brought it; None where nobody did. reason: theirs, or the rules'.
    """

    state: CommandState
    at: datetime
    seq: int
    epoch: int | None = None
    rate: float | None = None
    actor: str | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandView:
    """A command, and what has become of it. effective_from: the first epoch whose rate it bears on.

    rate: the rate the trainer really set; None until it reports it.
    history: its steps, oldest first; the last one is `state`.
    """

    run: str
    seq: int
    effective_from: int
    key: str | None
    command: Command
    created_at: datetime
    state: CommandState
    at_epoch: int | None
    rate: float | None
    reason: str | None
    history: Sequence[CommandStep]
