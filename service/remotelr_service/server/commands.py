"""The commands of `remotelr` that run on the service's own machine. Each imports what it needs when it is called."""

import sys
from typing import Annotated

import typer

database = typer.Typer(help="The tables of the database.", no_args_is_help=True, rich_markup_mode=None)

DatabaseUrl = Annotated[
    str | None,
    typer.Option(help="sqlite:///file or postgresql://user:password@host/name; else REMOTELR_DATABASE_URL."),
]


def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on [127.0.0.1].")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; 0 takes a free one [8000].")] = None,
    database_url: DatabaseUrl = None,
    insecure: Annotated[
        bool | None, typer.Option("--insecure", help="Ask nobody for a token, whoever reaches the address.")
    ] = None,
) -> None:
    """Serve until Ctrl-C. Without a database URL the runs are kept in remotelr.db, here.

    Everything else is set by environment variables; `remotelr settings` lists them.
    """
    from remotelr_service.server.startup import serve as serve_with
    from remotelr_service.settings import read_settings

    serve_with(read_settings(host=host, port=port, database_url=database_url, insecure=insecure))


@database.command()
def upgrade(database_url: DatabaseUrl = None) -> None:
    """Bring the tables to this release. Safe to run twice, and from several machines at once."""
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
    """Print the revision of the tables, and whether this release can work with them."""
    from remotelr_service.db import migrate
    from remotelr_service.settings import read_settings

    at, needed = migrate.current(read_settings(database_url=database_url).database_url), migrate.head()
    print(f"{at} (current)" if at == needed else f"{at or 'no tables'} (this release needs {needed})")


@database.command()
def prune(
    days: Annotated[float, typer.Option("--older-than-days", min=0, help="Not touched for so many days.")],
    experiment: Annotated[str | None, typer.Option(help="Of this experiment alone.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print which, and take none away.")] = False,
    database_url: DatabaseUrl = None,
) -> None:
    """Take away the runs that ended and were not touched for so long, with all their events, and print their keys.

    Without `--experiment` what came of commands to many runs that were finished so long ago goes too.

    An SQLite file must not be in use meanwhile; PostgreSQL may be. Stopped in the middle, it is just begun again.
    """
    from datetime import timedelta

    from remotelr_service.features.runs.pruning import PruneFilter
    from remotelr_service.server.prune import bulk_pruned, bulk_to_prune, keys_to_prune, pruned
    from remotelr_service.server.startup import open_migrated
    from remotelr_service.settings import read_settings

    ctx = open_migrated(read_settings(database_url=database_url).database_url)
    stale, count = PruneFilter(age=timedelta(days=days), experiment=experiment), 0
    what_is_done = "would be taken away" if dry_run else "were taken away"
    try:
        for key in (keys_to_prune if dry_run else pruned)(ctx, stale):
            print(key)
            count += 1
        if bulk := sum(1 for _ in (bulk_to_prune if dry_run else bulk_pruned)(ctx, stale)):
            print(f"{bulk} commands to many runs {what_is_done}", file=sys.stderr)
    finally:
        ctx.close()
        print(f"{count} runs {what_is_done}", file=sys.stderr)


@database.command()
def token(
    name: Annotated[str, typer.Argument(help="What the token's orders are noted under.")],
    database_url: DatabaseUrl = None,
) -> None:
    """Make a token of the scope admin in the database itself, and print it: when nobody can get in any more.

    An SQLite file must not be in use meanwhile; PostgreSQL may be.
    """
    from remotelr_service.features.tokens.bootstrap import token_made_here
    from remotelr_service.server.startup import open_migrated
    from remotelr_service.settings import read_settings

    ctx = open_migrated(read_settings(database_url=database_url).database_url)
    try:
        print(token_made_here(ctx, name).secret)
    finally:
        ctx.close()


def demo() -> None:
    """Train small models through a service of their own, kill one, start it again: the curve goes on."""
    from remotelr_service.demo import run_demo

    sys.exit(run_demo())


def openapi() -> None:
    """Print the OpenAPI document."""
    import json

    from remotelr_service.server.app import create_app
    from remotelr_service.settings import Settings

    print(json.dumps(create_app(Settings()).openapi(), indent=1, ensure_ascii=False))


def settings() -> None:
    """Print all settings, as Markdown."""
    from remotelr_service.settings import settings_page

    print(settings_page(), end="")
