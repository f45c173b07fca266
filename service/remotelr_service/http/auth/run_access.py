"""Keeping somebody to the runs that are there for them: all others are answered as if there were none."""

import logging
from collections.abc import Callable, Sequence
from typing import TypeVar

from sqlalchemy import Engine

from remotelr.rules import Policy
from remotelr_service.db.engine import reading
from remotelr_service.db.queries import runs
from remotelr_service.db.writer.prefetch import Point
from remotelr_service.db.writer.transaction import WriteTransaction
from remotelr_service.db.writer.writer import Writer
from remotelr_service.errors import RunNotFound
from remotelr_service.http.auth.callers import Caller

T = TypeVar("T")

log = logging.getLogger(__name__)


class ScopedWriter(Writer):
    """The writer of the process for a caller who is kept to some runs.

    It looks at the runs in the transaction that changes them, when they are locked: so it costs no query, and a run
    cannot become another one in between.
    """

    def __init__(self, writer: Writer, caller: Caller) -> None:
        # No thread and no queue of its own: those of `writer` do the work.
        self._writer = writer
        self._caller = caller

    # typing.override is younger than the oldest Python that runs this.
    async def submit(  # type: ignore[explicit-override]
        self,
        action: Callable[[WriteTransaction], T],
        *keys: str,
        prefetch: Sequence[Point] = (),
        policy: Policy | None = None,
    ) -> T:
        def within_reach(tx: WriteTransaction) -> T:
            for key in keys:
                stored = tx.find(key)
                _check(self._caller, key, self._caller.experiment if stored is None else stored.experiment)
            return action(tx)

        return await self._writer.submit(within_reach, *keys, prefetch=prefetch, policy=policy)


def check_access(engine: Engine, caller: Caller, key: str) -> None:
    """Raises RunNotFound for a run that is not there for the caller. One that does not exist passes."""
    _check(caller, key, caller.experiment)
    if caller.experiment is None:
        return
    with reading(engine) as connection:
        stored = runs.find_run(connection, key)
    if stored is not None:
        _check(caller, key, stored.experiment)


def _check(caller: Caller, key: str, experiment: str | None) -> None:
    if not caller.can_access(key, experiment):
        log.warning("refused: the run %s is not there for the token %s", key, caller.name)
        raise RunNotFound(key)
