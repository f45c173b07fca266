"""Options that several commands share, each with its help and what the shell offers to complete it with."""

import getpass
from contextlib import suppress
from typing import Annotated, Any

import typer

from remotelr.errors import RemoteLRError
from remotelr_service.cli.support.http_client import NOT_SET, connect, token_source
from remotelr_service.errors import UserError

# A shell that waits for its suggestions is worse than one without.
_COMPLETION_S = 1.0


def complete_run(incomplete: str) -> list[str]:
    """The runs there are, for the shell; none when the service does not answer at once."""
    return _keys("/v1/runs", "runs", "run", incomplete)


def complete_experiment(incomplete: str) -> list[str]:
    return _keys("/v1/experiments", "experiments", "experiment", incomplete)


def _keys(path: str, member: str, name: str, incomplete: str) -> list[str]:
    with suppress(RemoteLRError, UserError), connect(None, timeout_s=_COMPLETION_S) as desk:
        keys = [str(item[name]) for item in desk.get(path, limit=200)[member]]
        return [key for key in keys if key.startswith(incomplete)]
    return []


RunKey = Annotated[str, typer.Argument(metavar="RUN", help="The run's key.", autocompletion=complete_run)]
ExperimentKey = Annotated[
    str, typer.Argument(metavar="EXPERIMENT", help="The experiment's key.", autocompletion=complete_experiment)
]

Url = Annotated[
    str | None,
    typer.Option(
        "--url", help="Address of the service [REMOTELR_URL, else http://127.0.0.1:8000].", show_default=False
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]

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

Reason = Annotated[str | None, typer.Option("--reason", "-m", help="Why, for the log.")]
Actor = Annotated[str | None, typer.Option("--actor", help="Who, for the log, where there are no tokens [USER].")]
Key = Annotated[
    str | None, typer.Option("--key", help="The same key is the same command: repeating it changes nothing.")
]


def given(**members: Any) -> dict[str, Any]:
    """Those that were given at all."""
    return {name: value for name, value in members.items() if value is not None}


def actor_of(actor: str | None) -> str | None:
    """Who orders: as said; a token has a name of its own; else who is logged in here."""
    if actor is not None or token_source() != NOT_SET:
        return actor
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return None


def tag_pair(text: str) -> tuple[str, str]:
    """NAME:VALUE as the two. Raises Mistake."""
    name, colon, value = text.partition(":")
    if not colon:
        raise UserError(f"a tag is NAME:VALUE, not {text!r}")
    return name, value
