"""Finding a run, to read it or to change it."""

from sqlalchemy import Connection

from remotelr.rules import Decision
from remotelr_service.actions.errors import RunNotFound
from remotelr_service.db import store
from remotelr_service.db.group import Group
from remotelr_service.db.store import Head


def locked_run(group: Group, key: str) -> Head:
    """The run `key`, as the actions before in the group left it. Raises RunNotFound."""
    head = group.find(key)
    if head is None:
        raise RunNotFound(key)
    return head


def stored_run(connection: Connection, key: str) -> Head:
    """The run `key`, not locked. Raises RunNotFound."""
    head = store.find_head(connection, key)
    if head is None:
        raise RunNotFound(key)
    return head


def stored_decision(connection: Connection, head: Head) -> Decision:
    """The decision in force. Raises RunNotFound when the run, or this decision, has just gone."""
    decision = store.list_decisions(connection, [head]).get(head.id)
    if decision is None:
        raise RunNotFound(head.run.key)
    return decision
