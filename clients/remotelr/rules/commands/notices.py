"""What the sender of a command should know, although the command is accepted."""

from dataclasses import dataclass
from typing import Literal

from remotelr.rules.run.command import Command
from remotelr.rules.run.model import Run
from remotelr.rules.schedules.base import is_stateful


@dataclass(frozen=True, slots=True)
class Notice:
    """A notice about a command. code: for programs, never renamed. detail: for the operator."""

    code: Literal["run_ended", "schedule_observes"]
    detail: str


def notices(run: Run, command: Command) -> list[Notice]:
    """The notices about a command that no trainer has received.

    run_ended: the run is not running. schedule_observes: a closed-loop schedule goes on beneath a held rate, and may
    change its own rate meanwhile.
    """
    found = list[Notice]()
    if run.status != "running":
        found.append(Notice("run_ended", f"the run is {run.status}: this holds if it begins again"))
    if _holds(command) and is_stateful(run.policy.schedule):
        found.append(
            Notice(
                "schedule_observes",
                "the policy observes reports beneath the held rate and may change its own rate before the release; "
                "use mode rebase to let it continue from this rate",
            )
        )
    return found


def _holds(command: Command) -> bool:
    """Whether the command holds a rate for more than one epoch."""
    if command.type != "set_learning_rate":
        return False
    return command.mode == "pin" or (command.mode == "one_shot" and command.until is not None)
