"""The database's clock: the only one that all replicas share. What has to be over at some time is measured by it."""

from datetime import datetime
from typing import Any

from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

from remotelr_service.db.tables import Moment


class database_now(FunctionElement[datetime]):  # noqa: N801  # SQL functions are written like this
    """When the transaction began (PostgreSQL), or the statement (SQLite, whose clock is this machine's)."""

    type = Moment()
    inherit_cache = True


@compiles(database_now, "postgresql")
def _of_postgresql(_element: database_now, _compiler: Any, **_settings: Any) -> str:
    return "now()"


# As `Moment` writes it. SQLite knows milliseconds.
SQLITE_NOW = "strftime('%Y-%m-%dT%H:%M:%f000+00:00', 'now')"


@compiles(database_now, "sqlite")
def _of_sqlite(_element: database_now, _compiler: Any, **_settings: Any) -> str:
    return SQLITE_NOW
