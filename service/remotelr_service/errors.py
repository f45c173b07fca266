"""What can go wrong beside the rules, in the domain's words. `api/errors.py` gives each a status.

    ServiceError
    ├── RunNotFound          no run has this key
    ├── ExperimentNotFound   no experiment has this name
    ├── ExperimentConflict   the run exists in another experiment
    ├── CommandNotFound      no command has this number
    ├── TooManyRuns          one command is for so many runs, and no more
    ├── TooManyTags          a run holds 32
    ├── StepsUnknown         rates of single steps are asked for, of an epoch without a known length
    ├── LogTooLong        a run has gone through more than is gone through again in one request
    ├── EpochUndecided       a decision is asked for, of an epoch that has none
    ├── ExperimentOutOfReach the token is for another experiment
    ├── TokenNotFound        no token has this number
    ├── TokenNameTaken       a token that is not revoked has this name
    ├── AdminTokenNeeded     without one left, nobody could change anything about tokens any more
    ├── DatabaseUnavailable         retry: the outcome is unknown, and a repetition is safe
    ├── RunBusy              retry: another replica holds the run
    ├── Overloaded           retry: the queue is full, or the service is stopping
    ├── InvalidDatabaseUrl   at start
    ├── DatabaseInUse        at start: another process has the SQLite file
    ├── DatabaseDamaged      at start: restore a backup
    └── SchemaOutdated       at start: run the migrations

The refusals of the rules are `remotelr.rules.RulesError` and below.
"""

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


class DatabaseUnavailable(ServiceError):
    """The database cannot be reached or cannot write now. What was asked may or may not have been stored."""

    code = "database_unavailable"
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


class RunNotFound(ServiceError):
    code = "run_not_found"

    def __init__(self, key: str) -> None:
        super().__init__(f"there is no run {key!r}", run=key)


class ExperimentNotFound(ServiceError):
    code = "experiment_not_found"

    def __init__(self, name: str) -> None:
        super().__init__(
            f"there is no experiment {name!r}: PUT /v1/experiments/{name} makes it, and so does its first run",
            experiment=name,
        )


class CommandNotFound(ServiceError):
    code = "command_not_found"


class TooManyRuns(ServiceError):
    code = "too_many_runs"


class ExperimentConflict(ServiceError):
    code = "experiment_conflict"

    def __init__(self, key: str, known: str | None, given: str) -> None:
        super().__init__(
            f"the run {key!r} belongs to {'no experiment' if known is None else f'experiment {known!r}'}, "
            f"not to {given!r}",
            run=key,
            known=known,
            given=given,
        )


class TooManyTags(ServiceError):
    code = "too_many_tags"

    def __init__(self, key: str, count: int, limit: int) -> None:
        super().__init__(
            f"the run {key!r} would have {count} tags, and may have {limit}: set others to null", run=key, limit=limit
        )


class StepsUnknown(ServiceError):
    code = "steps_unknown"


class LogTooLong(ServiceError):
    code = "log_too_long"


class EpochUndecided(ServiceError):
    code = "epoch_undecided"

    def __init__(self, key: str, epoch: int, newest: int) -> None:
        super().__init__(
            f"epoch {epoch} of the run {key!r} has no decision yet: the newest is for epoch {newest}", newest=newest
        )


class ExperimentOutOfReach(ServiceError):
    code = "forbidden"

    def __init__(self, kept_to: str | None, asked: str | None) -> None:
        reach = "one run, and for no experiment" if kept_to is None else f"runs of the experiment {kept_to!r}"
        super().__init__(f"this token is for {reach}, not for {asked!r}")


class TokenNotFound(ServiceError):
    code = "token_not_found"

    def __init__(self, token_id: int) -> None:
        super().__init__(f"there is no token {token_id}", token=token_id)


class TokenNameTaken(ServiceError):
    code = "token_name_taken"

    def __init__(self, name: str, token_id: int) -> None:
        super().__init__(
            f"the token {token_id} has the name {name!r}: give another name, or revoke that token first",
            token=token_id,
        )


class AdminTokenNeeded(ServiceError):
    code = "admin_token_needed"


class UserError(Exception):
    """Something only the person at the command line can put right; the message says what and how."""
