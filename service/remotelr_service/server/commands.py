"""Commands of `remotelr` that run on the service's machine. Each imports its dependencies when it runs."""

import sys
from typing import Annotated

import typer

database = typer.Typer(help="Manage the database.", no_args_is_help=True, rich_markup_mode=None)

DatabaseUrl = Annotated[
    str | None,
    typer.Option(help="sqlite:///file or postgresql://user:password@host/name [REMOTELR_DATABASE_URL]."),
]


def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on [127.0.0.1].")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; 0 takes a free one [8000].")] = None,
    database_url: DatabaseUrl = None,
    insecure: Annotated[
        bool | None, typer.Option("--insecure", help="Require no token on an address that other machines reach.")
    ] = None,
) -> None:
    """Run the service.

    Without a database URL it uses the file remotelr.db in this folder. `remotelr settings` lists all settings.
    """
    from remotelr_service.server.startup import serve as serve_with
    from remotelr_service.settings import read_settings

    serve_with(read_settings(host=host, port=port, database_url=database_url, insecure=insecure))


@database.command()
def upgrade(database_url: DatabaseUrl = None) -> None:
    """Migrate the tables to this release.

    It may run twice, and on several machines at once.
    """
    from remotelr_service.db import migrate
    from remotelr_service.db.engine import exclusive_use
    from remotelr_service.settings import read_settings

    url = read_settings(database_url=database_url).database_url
    with exclusive_use(url):
        before = migrate.current(url)
        migrate.upgrade(url)
    after = migrate.head()
    print(f"the database is at {after} already" if before == after else f"the database is at {after} now")


@database.command()
def current(database_url: DatabaseUrl = None) -> None:
    """Print the tables' revision and whether this release supports it."""
    from remotelr_service.db import migrate
    from remotelr_service.settings import read_settings

    at, needed = migrate.current(read_settings(database_url=database_url).database_url), migrate.head()
    print(f"{at} (current)" if at == needed else f"{at or 'no tables'} (this release needs {needed})")


@database.command()
def prune(
    days: Annotated[float, typer.Option("--older-than-days", min=0, help="Without a change for this many days.")],
    experiment: Annotated[str | None, typer.Option(help="Only runs of this experiment.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the runs and delete nothing.")] = False,
    database_url: DatabaseUrl = None,
) -> None:
    """Delete old finished runs.

    Prints the key of each deleted run. Without `--experiment`, old finished bulk commands are deleted too. A SQLite
    file must not be in use; a PostgreSQL database may be. After an interruption, run it again.
    """
    from datetime import timedelta

    from remotelr_service.features.runs.pruning import PruneFilter
    from remotelr_service.server.prune import prune_bulk_commands, prune_runs
    from remotelr_service.server.startup import open_migrated
    from remotelr_service.settings import read_settings

    ctx = open_migrated(read_settings(database_url=database_url).database_url)
    stale, count = PruneFilter(age=timedelta(days=days), experiment=experiment), 0
    effect = "would be deleted" if dry_run else "deleted"
    try:
        for key in prune_runs(ctx, stale, dry_run=dry_run):
            print(key)
            count += 1
        if bulk := sum(1 for _ in prune_bulk_commands(ctx, stale, dry_run=dry_run)):
            print(f"{bulk} bulk commands {effect}", file=sys.stderr)
    finally:
        ctx.close()
        print(f"{count} runs {effect}", file=sys.stderr)


@database.command()
def token(
    name: Annotated[str, typer.Argument(help="The name that the log records for its commands.")],
    database_url: DatabaseUrl = None,
) -> None:
    """Create an admin token in the database and print it.

    For an operator who has lost all admin tokens. A SQLite file must not be in use; a PostgreSQL database may be.
    """
    from remotelr_service.features.tokens.bootstrap import create_local_token
    from remotelr_service.server.startup import open_migrated
    from remotelr_service.settings import read_settings

    ctx = open_migrated(read_settings(database_url=database_url).database_url)
    try:
        print(create_local_token(ctx, name).secret)
    finally:
        ctx.close()


def demo() -> None:
    """Train small models, kill one trainer and resume it.

    The demo starts its own service and compares the rates with an uninterrupted run.
    """
    from remotelr_service.demo import run_demo

    sys.exit(run_demo())


def openapi() -> None:
    """Print the OpenAPI document."""
    import json

    from remotelr_service.server.app import create_app
    from remotelr_service.settings import Settings

    print(json.dumps(create_app(Settings()).openapi(), indent=1, ensure_ascii=False))


def settings() -> None:
    """Print all settings as Markdown."""
    from remotelr_service.settings import settings_page

    print(settings_page(), end="")
