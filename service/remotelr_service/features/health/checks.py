"""Checks of readiness."""

from sqlalchemy import Engine

from remotelr_service.db.schema_check import check_writable, schema_mismatch, stored_revision
from remotelr_service.errors import DatabaseDamaged, DatabaseUnavailable
from remotelr_service.http.context import Context

OK = "ok"


def database_checks(engine: Engine) -> dict[str, str]:
    """The checks `database` and `schema`, each `ok` or an error message."""
    try:
        check_writable(engine)
        return {"database": OK, "schema": schema_mismatch(engine, stored_revision(engine)) or OK}
    except (DatabaseDamaged, DatabaseUnavailable) as error:
        return {"database": error.message, "schema": "not known"}


def write_check(ctx: Context) -> str:
    """`ok`, or the error of the last write if it failed recently."""
    return ctx.writer.failing or OK
