"""Keeping somebody to the runs that are there for them: all others are answered as if there were none."""

from collections.abc import Callable
from typing import TypeVar

from sqlalchemy import Engine

from remotelr_service.actions.callers import Caller
from remotelr_service.actions.errors import RunNotFound
from remotelr_service.db import store
from remotelr_service.db.engine import reading
from remotelr_service.db.group import Group
from remotelr_service.db.writer import Writer

T = TypeVar("T")


class KeptWriter(Writer):
    """The writer of the process for a caller who is kept to some runs.

    It looks at the runs in the transaction that changes them, when they are locked: so it costs no query, and a run
    cannot become another one in between.
    """

    def __init__(self, writer: Writer, caller: Caller) -> None:
        # No thread and no queue of its own: those of `writer` do the work.
        self._writer = writer
        self._caller = caller

    # typing.override is younger than the oldest Python that runs this.
    async def submit(self, action: Callable[[Group], T], *keys: str) -> T:  # type: ignore[explicit-override]
        def within_reach(group: Group) -> T:
            for key in keys:
                head = group.find(key)
                if head is not None and not self._caller.reaches(key, head.experiment):
                    raise RunNotFound(key)
            return action(group)

        return await self._writer.submit(within_reach, *keys)


def check_reach(engine: Engine, caller: Caller, key: str) -> None:
    """Raises RunNotFound for a run that is not there for the caller. One that does not exist passes."""
    if not caller.reaches(key, caller.experiment):
        raise RunNotFound(key)
    if caller.experiment is None:
        return
    with reading(engine) as connection:
        head = store.find_head(connection, key)
    if head is not None and not caller.reaches(key, head.experiment):
        raise RunNotFound(key)
