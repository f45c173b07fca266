"""Commands: what operators order."""

from dataclasses import replace
from uuid import uuid4

from remotelr import rules
from remotelr.rules import Command
from remotelr_service.actions.finding import locked_run
from remotelr_service.actions.views import CommandView
from remotelr_service.db.group import Group
from remotelr_service.db.writer import Writer


async def command(writer: Writer, key: str, command: Command) -> CommandView:
    """The command as it was noted. One whose key is known was noted already, and counts once.

    Raises RunNotFound, and what `remotelr.rules.command` does.
    """
    # The writer may run an action twice: without a key of its own, a factor could then count twice.
    named = command if command.key is not None else replace(command, key=uuid4().hex)
    assert named.key is not None
    name = named.key

    def action(group: Group) -> CommandView:
        head, log = locked_run(group, key), group.log(key)
        outcome = rules.command(head.run, named, log)
        group.append(head, outcome)
        event = outcome.event or log.keyed("command", name)
        assert event is not None, "a command that brings no event was noted before"
        return CommandView(
            run=key,
            seq=event.seq,
            holds_from=event.holds_from,
            type=named.type,
            value=named.value,
            key=command.key,
            replayed=outcome.event is None,
        )

    return await writer.submit(action, key)
