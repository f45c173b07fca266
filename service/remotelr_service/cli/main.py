"""The command line `remotelr`. Commands import their dependencies when they run, so that `--help` is fast."""

from importlib.metadata import version
from typing import Annotated

import typer

from remotelr_service.cli import bulk, config, experiments, policy, tokens
from remotelr_service.cli.doctor import doctor
from remotelr_service.cli.runs import commands as runs
from remotelr_service.cli.support import exit_codes
from remotelr_service.server import commands

cli = typer.Typer(
    help="RemoteLR: a service that decides the learning rates of training runs.",
    epilog="REMOTELR_URL is the service's address, REMOTELR_TOKEN or REMOTELR_TOKEN_FILE its token. "
    "Exit codes: 0 done, 1 rejected, 2 wrong usage, 3 unreachable, 4 timeout.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
cli.add_typer(runs.app, name="runs")
cli.add_typer(bulk.app, name="bulk")
cli.add_typer(experiments.app, name="experiments")
cli.add_typer(policy.app, name="policy")
cli.add_typer(tokens.app, name="token")
cli.command()(commands.serve)
cli.add_typer(commands.database, name="db")
cli.command()(commands.demo)
cli.command()(commands.openapi)
cli.command()(commands.settings)
cli.command()(doctor)
cli.add_typer(config.app, name="config")


def main() -> None:
    """Run the command line and exit with a code of `cli/support/exit_codes.py`."""
    exit_codes.run(lambda: cli(prog_name="remotelr"))


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"remotelr {version('remotelr-service')}")
        raise typer.Exit


@cli.callback()
def _options(
    _version: Annotated[
        bool, typer.Option("--version", help="Print the release.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    pass
