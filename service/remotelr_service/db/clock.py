"""The database's clock, which all replicas share. Deadlines and expiries are compared with it."""

from datetime import datetime
from typing import Any

from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

from remotelr_service.db.tables import Moment


class database_now(FunctionElement[datetime]):  # noqa: N801  # SQL functions are written like this
    """The begin of the transaction (PostgreSQL) or of the statement (SQLite, by the clock of this machine)."""

    type = Moment()
    inherit_cache = True


@compiles(database_now, "postgresql")
def _of_postgresql(_element: database_now, _compiler: Any, **_settings: Any) -> str:
    return "now()"


# The format of `Moment`. SQLite has milliseconds.
SQLITE_NOW = "strftime('%Y-%m-%dT%H:%M:%f000+00:00', 'now')"


@compiles(database_now, "sqlite")
def _of_sqlite(_element: database_now, _compiler: Any, **_settings: Any) -> str:
    return SQLITE_NOW
