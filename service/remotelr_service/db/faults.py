"""What a failed call of the database means, by PostgreSQL's SQLSTATE and SQLite's result code.

    fault        meaning                                                   the writer
    race         another transaction was first; the same one may succeed   retries
    lost         the connection is of no use, maybe after the commit       retries on a new connection
    slow         the transaction was cancelled for its time                rejects the action, 503
    unavailable  no transaction can succeed now                            rejects all that wait, 503
    damaged      the data or an index is not whole                         rejects all that wait, 503
    other        an error of the action itself                             raises it

`lost` includes a server that has become read-only: after a failover a pooled connection leads to the old primary, and
a new one to the new primary.
"""

import sqlite3
from collections.abc import Mapping
from typing import Final, Literal

from sqlalchemy.exc import DBAPIError, IntegrityError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

Fault = Literal["race", "lost", "slow", "unavailable", "damaged", "other"]

# Raised if the database cannot be reached, cannot write, or the pool has no connection in time.
UNAVAILABLE: Final = (OperationalError, InterfaceError, PoolTimeout)

# https://www.postgresql.org/docs/current/errcodes-appendix.html
BY_STATE: Final[Mapping[str, Fault]] = {
    "25006": "lost",  # read_only_sql_transaction
    "25P03": "lost",  # idle_in_transaction_session_timeout
    "40001": "race",  # serialization_failure
    "40P01": "race",  # deadlock_detected
    "55P03": "race",  # lock_not_available
    "57014": "slow",  # query_canceled
    "57P01": "lost",  # admin_shutdown
    "57P02": "lost",  # crash_shutdown
    "57P03": "lost",  # cannot_connect_now
    "57P04": "lost",  # database_dropped
    "57P05": "lost",  # idle_session_timeout
    "XX001": "damaged",  # data_corrupted
    "XX002": "damaged",  # index_corrupted
}
BY_CLASS: Final[Mapping[str, Fault]] = {
    "08": "lost",  # connection_exception
    "53": "unavailable",  # insufficient_resources: disk_full, out_of_memory, too_many_connections
    "58": "unavailable",  # system_error: io_error
}
# Primary result codes, the low byte of an extended one.
BY_SQLITE_CODE: Final[Mapping[int, Fault]] = {
    sqlite3.SQLITE_CORRUPT: "damaged",
    sqlite3.SQLITE_NOTADB: "damaged",
    sqlite3.SQLITE_READONLY: "unavailable",
}


def classify_error(error: BaseException) -> Fault:
    """The fault that made a transaction fail; see the table above."""
    if isinstance(error, IntegrityError):
        return "race"
    if isinstance(error, DBAPIError):
        known = _of_driver(error.orig)
        if known is not None:
            return known
        if error.connection_invalidated:
            return "lost"
    return "unavailable" if isinstance(error, UNAVAILABLE) else "other"


def ends_connection(error: BaseException) -> bool:
    """Whether the connection on which the driver raised `error` must not be used again."""
    return _of_driver(error) == "lost"


def _of_driver(error: BaseException | None) -> Fault | None:
    state = getattr(error, "sqlstate", None)
    if state is not None:
        return BY_STATE.get(state) or BY_CLASS.get(state[:2])
    code = getattr(error, "sqlite_errorcode", None)
    return None if code is None else BY_SQLITE_CODE.get(code & 0xFF)
