"""How Alembic runs the migrations: all of them in one transaction that keeps other migrations out.

SQLite rolls back changes of tables like any others, when BEGIN comes before them (the engine sees to
that) and Alembic knows it (`transactional_ddl`). So a migration that fails half-way leaves nothing.
"""

from alembic import context

from remotelr_service.db.engine import lock_schema, migration_engine
from remotelr_service.db.tables import metadata


def run() -> None:
    engine = migration_engine(context.config.attributes["url"])
    try:
        with engine.begin() as connection:
            lock_schema(connection)
            context.configure(connection=connection, target_metadata=metadata, transactional_ddl=True)
            with context.begin_transaction():
                context.run_migrations()
    finally:
        engine.dispose()


run()
