"""Restricts callers to their runs. Other runs are answered as if they did not exist."""

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
    """The process's writer for a restricted caller.

    It checks the runs in the transaction that changes them, when they are locked. So the check needs no query, and no
    run can be replaced between the check and the change.
    """

    def __init__(self, writer: Writer, caller: Caller) -> None:
        # Without a thread and a queue: `writer` executes the actions.
        self._writer = writer
        self._caller = caller

    # `typing.override` needs Python 3.12.
    async def submit(  # type: ignore[explicit-override]
        self,
        action: Callable[[WriteTransaction], T],
        *keys: str,
        prefetch: Sequence[Point] = (),
        policy: Policy | None = None,
    ) -> T:
        def checked_action(tx: WriteTransaction) -> T:
            for key in keys:
                stored = tx.find(key)
                _check(self._caller, key, self._caller.experiment if stored is None else stored.experiment)
            return action(tx)

        return await self._writer.submit(checked_action, *keys, prefetch=prefetch, policy=policy)


def check_access(engine: Engine, caller: Caller, key: str) -> None:
    """Raises RunNotFound for an existing run that the caller cannot access."""
    _check(caller, key, caller.experiment)
    if caller.experiment is None:
        return
    with reading(engine) as connection:
        stored = runs.find_run(connection, key)
    if stored is not None:
        _check(caller, key, stored.experiment)


def _check(caller: Caller, key: str, experiment: str | None) -> None:
    if not caller.can_access(key, experiment):
        log.warning("the token cannot access the run", extra={"token": caller.name, "run": key})
        raise RunNotFound(key)
