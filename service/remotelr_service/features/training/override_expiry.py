"""Rates that operators hold until a time: let go when it has come, by whoever notices first.

The rules have no clock, so the end is an event of its own. Whoever is about to decide appends it first; where
nobody asks, the replica does that looks next. What tells the time is the database's clock, for all of them.
"""

import asyncio
import logging

from sqlalchemy import Engine

from remotelr import rules
from remotelr_service.db.engine import reading
from remotelr_service.db.queries import runs as store
from remotelr_service.db.queries.runs import Head
from remotelr_service.db.writer.transaction import Group
from remotelr_service.db.writer.writer import Writer
from remotelr_service.errors import ServiceError

log = logging.getLogger(__name__)

# How many runs one look takes on.
RUNS = 200


def let_go(group: Group, head: Head) -> Head:
    """The run without the rates that were to be held until a time that has come."""
    if not group.is_held_too_long(head):
        return head
    while (order := rules.until_due(head.run, group.now)) is not None:
        head = group.append(head, rules.command(head.run, order, group.log(head.run.key)))
    return head


async def let_go_due(writer: Writer, engine: Engine) -> None:
    """Let go of every rate whose time has come. Raises DatabaseAway.

    A run that another replica holds now is left to the next look.
    """
    due = await asyncio.to_thread(_list_due, engine)
    await asyncio.gather(*(_let_go(writer, key) for key in due))


async def _let_go(writer: Writer, key: str) -> None:
    def action(group: Group) -> None:
        head = group.find(key)
        if head is not None:
            let_go(group, head)

    try:
        await writer.submit(action, key)
    except ServiceError as error:
        log.debug("the run %r is left to the next look, because: %s", key, error)
    except Exception:
        # What is wrong with one run shall not keep the others waiting.
        log.exception("the rate of the run %r cannot be let go", key)


def _list_due(engine: Engine) -> list[str]:
    with reading(engine) as connection:
        return store.list_held_too_long(connection, RUNS)
