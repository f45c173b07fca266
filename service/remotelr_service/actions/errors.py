"""What can go wrong beside the rules, in the domain's words. `api/errors.py` gives each a status.

    ServiceError
    ├── RunNotFound          no run has this key
    ├── ExperimentConflict   the run exists in another experiment
    ├── TooManyTags          a run holds 32
    ├── StepsUnknown         rates of single steps are asked for, of an epoch without a known length
    ├── DatabaseAway         retry: the outcome is unknown, and a repetition is safe
    ├── RunBusy              retry: another replica holds the run
    ├── Overloaded           retry: the queue is full, or the service is stopping
    ├── InvalidDatabaseUrl   at start
    ├── DatabaseInUse        at start: another process has the SQLite file
    ├── DatabaseDamaged      at start: restore a backup
    └── SchemaOutdated       at start: run the migrations

The refusals of the rules are `remotelr.rules.RulesError` and below.
"""

from remotelr_service.db.errors import (
    DatabaseAway,
    DatabaseDamaged,
    DatabaseInUse,
    InvalidDatabaseUrl,
    Overloaded,
    RunBusy,
    SchemaOutdated,
    ServiceError,
)

__all__ = [
    "DatabaseAway",
    "DatabaseDamaged",
    "DatabaseInUse",
    "ExperimentConflict",
    "InvalidDatabaseUrl",
    "Overloaded",
    "RunBusy",
    "RunNotFound",
    "SchemaOutdated",
    "ServiceError",
    "StepsUnknown",
    "TooManyTags",
]


class RunNotFound(ServiceError):
    code = "run_not_found"

    def __init__(self, key: str) -> None:
        super().__init__(f"there is no run {key!r}", run=key)


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
