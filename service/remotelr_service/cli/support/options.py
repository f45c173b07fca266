"""Options of several commands, with their help and shell completion."""

import getpass
from contextlib import suppress
from typing import Annotated

import typer

from remotelr.errors import RemoteLRError
from remotelr_service.cli.support.http_client import NOT_SET, connect, token_source
from remotelr_service.errors import UserError

# A completion that blocks the shell for longer is worse than none.
_COMPLETION_S = 1.0


def complete_run(incomplete: str) -> list[str]:
    """Run keys for the shell; empty if the service does not respond in time."""
    return _keys("/v1/runs", "runs", "run", incomplete)


def complete_experiment(incomplete: str) -> list[str]:
    return _keys("/v1/experiments", "experiments", "experiment", incomplete)


def _keys(path: str, member: str, name: str, incomplete: str) -> list[str]:
    with suppress(RemoteLRError, UserError), connect(None, timeout_s=_COMPLETION_S) as service:
        keys = [str(item[name]) for item in service.get(path, limit=200)[member]]
        return [key for key in keys if key.startswith(incomplete)]
    return []


RunKey = Annotated[str, typer.Argument(metavar="RUN", help="The run's key.", autocompletion=complete_run)]
ExperimentKey = Annotated[
    str, typer.Argument(metavar="EXPERIMENT", help="The experiment's name.", autocompletion=complete_experiment)
]

Url = Annotated[
    str | None,
    typer.Option(
        "--url", help="Address of the service [REMOTELR_URL, else http://127.0.0.1:8000].", show_default=False
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]

InExperiment = Annotated[
    str | None,
    typer.Option("--experiment", "-e", help="Only runs of this experiment.", autocompletion=complete_experiment),
]
WithTag = Annotated[
    list[str] | None, typer.Option("--tag", "-t", metavar="NAME:VALUE", help="Only runs with this tag.")
]
WithStatus = Annotated[
    str | None, typer.Option("--status", "-s", help="Only runs that are running, completed, failed or stopped.")
]

Reason = Annotated[str | None, typer.Option("--reason", "-m", help="The reason, for the log.")]
Actor = Annotated[
    str | None, typer.Option("--actor", help="The operator's name, for the log; a token's name replaces it [USER].")
]
Key = Annotated[
    str | None, typer.Option("--key", help="Idempotency key: a repeated command with this key counts once.")
]


def actor_of(actor: str | None) -> str | None:
    """The operator's name: as given; None with a token, which has a name; else the user of this machine."""
    if actor is not None or token_source() != NOT_SET:
        return actor
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return None


def tag_pair(text: str) -> tuple[str, str]:
    """Name and value of NAME:VALUE. Raises UserError."""
    name, colon, value = text.partition(":")
    if not colon:
        raise UserError(f"a tag must be NAME:VALUE, got {text!r}")
    return name, value
