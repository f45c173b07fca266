"""What can go wrong with the database, in the service's words. `actions/errors.py` draws the whole tree."""

from collections.abc import Mapping
from typing import Any, ClassVar


class ServiceError(Exception):
    """The base of what the service itself refuses or cannot do.

    code: on the wire, never renamed. details: further members of the answer.
    retry_after_s: asking again after this many seconds may succeed; None where it cannot.
    """

    code: ClassVar[str] = "service_error"
    retry_after_s: ClassVar[int | None] = None

    def __init__(self, message: str, **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.details: Mapping[str, Any] = details


class DatabaseAway(ServiceError):
    """The database cannot be reached or cannot write now. What was asked may or may not have been stored."""

    code = "database_away"
    retry_after_s = 1


class RunBusy(ServiceError):
    """Another replica held the run for longer than this one waits. Nothing was stored."""

    code = "run_busy"
    retry_after_s = 1


class Overloaded(ServiceError):
    """More waits to be written than the queue takes, or the service is stopping. Nothing was stored."""

    code = "overloaded"
    retry_after_s = 1


class InvalidDatabaseUrl(ServiceError):
    """A database URL that names no database this service speaks to."""

    code = "invalid_database_url"


class DatabaseInUse(ServiceError):
    """Another service process has the SQLite file."""

    code = "database_in_use"


class DatabaseDamaged(ServiceError):
    """The SQLite file is not whole, or no SQLite file."""

    code = "database_damaged"


class SchemaOutdated(ServiceError):
    """The tables are older, or newer, than this release knows."""

    code = "schema_outdated"
