"""Errors of the service. `http/error_handlers.py` gives each an HTTP status.

    ServiceError
    ├── RunNotFound           no run has this key
    ├── ExperimentNotFound    no experiment has this name
    ├── ExperimentConflict    the run belongs to another experiment
    ├── CommandNotFound       no command has this number
    ├── TooManyRuns           a bulk command selects more runs than its limit
    ├── TooManyTags           a run has at most 32 tags
    ├── StepsUnknown          rates of single steps need an epoch of known length
    ├── EvaluationTooLong     a curve needs more evaluation than one request may take
    ├── LogTooLong            the run's log is too long to replay in one request
    ├── EpochUndecided        the epoch has no decision yet
    ├── ExperimentOutOfReach  the token is bound to another experiment
    ├── TokenNotFound         no token has this number
    ├── TokenNameTaken        a token that is not revoked has this name
    ├── AdminTokenNeeded      the last admin token must stay
    ├── DatabaseUnavailable   retry: the outcome is unknown, and a repeated request is safe
    ├── RunBusy               retry: another transaction holds the run
    ├── Overloaded            retry: the queue is full, or the service is stopping
    ├── InvalidDatabaseUrl    at start
    ├── DatabaseInUse         at start: another process has the SQLite file
    ├── DatabaseDamaged       at start: restore a backup
    └── SchemaOutdated        at start: run the migrations

Errors of the rules derive from `remotelr.rules.RulesError`.
"""

from collections.abc import Mapping
from typing import Any, ClassVar


class ServiceError(Exception):
    """Base of the service's own errors.

    code: the problem's code on the wire, never renamed. details: further members of the problem.
    retry_after_s: seconds until a retry may succeed; None if a retry is useless.
    """

    code: ClassVar[str] = "service_error"
    retry_after_s: ClassVar[int | None] = None

    def __init__(self, message: str, **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.details: Mapping[str, Any] = details


class DatabaseUnavailable(ServiceError):
    """The database is unreachable or cannot write. The action may or may not be stored."""

    code = "database_unavailable"
    retry_after_s = 1


class RunBusy(ServiceError):
    """Another replica held the run's lock until the timeout. Nothing is stored."""

    code = "run_busy"
    retry_after_s = 1


class Overloaded(ServiceError):
    """The writer's queue is full, or the service is stopping. Nothing is stored."""

    code = "overloaded"
    retry_after_s = 1


class InvalidDatabaseUrl(ServiceError):
    """The URL does not name a supported database."""

    code = "invalid_database_url"


class DatabaseInUse(ServiceError):
    """Another service process has the SQLite file."""

    code = "database_in_use"


class DatabaseDamaged(ServiceError):
    """The file is damaged, or is not a SQLite file."""

    code = "database_damaged"


class SchemaOutdated(ServiceError):
    """The tables are of an older or newer release."""

    code = "schema_outdated"


class _NotFound(ServiceError):
    """noun: the kind of the resource, and the name of the member with its key. action: what the caller can do."""

    code = "not_found"
    noun: ClassVar[str]
    action: ClassVar[str] = ""

    def __init__(self, key: str | int) -> None:
        super().__init__(f"there is no {self.noun} {key!r}" + self.action.format(key), **{self.noun: key})


class RunNotFound(_NotFound):
    code, noun = "run_not_found", "run"


class ExperimentNotFound(_NotFound):
    code, noun = "experiment_not_found", "experiment"
    action = "; create it with PUT /v1/experiments/{} or with its first run"


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
            f"the run {key!r} may have {limit} tags, got {count}; set others to null", run=key, limit=limit
        )


class StepsUnknown(ServiceError):
    code = "steps_unknown"


class EvaluationTooLong(ServiceError):
    code = "evaluation_too_long"


class LogTooLong(ServiceError):
    code = "log_too_long"


class EpochUndecided(ServiceError):
    code = "epoch_undecided"

    def __init__(self, key: str, epoch: int, newest: int) -> None:
        super().__init__(
            f"epoch {epoch} of the run {key!r} has no decision yet; the newest decided epoch is {newest}", newest=newest
        )


class ExperimentOutOfReach(ServiceError):
    code = "forbidden"

    def __init__(self, bound_to: str | None, requested: str | None) -> None:
        bound = "one run without an experiment" if bound_to is None else f"the experiment {bound_to!r}"
        super().__init__(f"this token is bound to {bound}, got {requested!r}; use another token")


class TokenNotFound(_NotFound):
    code, noun = "token_not_found", "token"


class TokenNameTaken(ServiceError):
    code = "token_name_taken"

    def __init__(self, name: str, token_id: int) -> None:
        super().__init__(
            f"the token {token_id} has the name {name!r}; use another name, or revoke that token first",
            token=token_id,
        )


class AdminTokenNeeded(ServiceError):
    code = "admin_token_needed"


class UserError(Exception):
    """An error that the operator can fix; the message says how."""
