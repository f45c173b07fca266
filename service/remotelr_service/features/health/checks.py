"""Whether the service can do its work now."""

from sqlalchemy import Engine

from remotelr_service.db.schema_check import misfit, stored_revision
from remotelr_service.errors import DatabaseAway
from remotelr_service.http.context import Resources

OK = "ok"


def database_checks(engine: Engine) -> dict[str, str]:
    """The checks `database` and `schema`, each `ok` or what is wrong."""
    try:
        return {"database": OK, "schema": misfit(engine, stored_revision(engine)) or OK}
    except DatabaseAway as away:
        return {"database": away.message, "schema": "not known"}


def write_check(resources: Resources) -> str:
    """`ok`, or what the last write failed of when that was lately and none has succeeded since."""
    return resources.writer.failing or OK
