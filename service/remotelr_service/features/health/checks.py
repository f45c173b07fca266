"""Whether the service can do its work now."""

from sqlalchemy import Engine

from remotelr_service.db.schema_check import check_writable, schema_mismatch, stored_revision
from remotelr_service.errors import DatabaseDamaged, DatabaseUnavailable
from remotelr_service.http.context import Context

OK = "ok"


def database_checks(engine: Engine) -> dict[str, str]:
    """The checks `database` and `schema`, each `ok` or what is wrong."""
    try:
        check_writable(engine)
        return {"database": OK, "schema": schema_mismatch(engine, stored_revision(engine)) or OK}
    except (DatabaseDamaged, DatabaseUnavailable) as error:
        return {"database": error.message, "schema": "not known"}


def write_check(ctx: Context) -> str:
    """`ok`, or what the last write failed of when that was lately and none has succeeded since."""
    return ctx.writer.failing or OK
