"""`remotelr token`: create, list and revoke tokens."""

import re
from typing import Annotated, Any, Literal

import typer

from remotelr_service.cli.support import output
from remotelr_service.cli.support.http_client import ServiceClient, connect, without_none
from remotelr_service.cli.support.options import AsJson, Url, complete_experiment, complete_run
from remotelr_service.errors import UserError

app = typer.Typer(help="Manage tokens.", no_args_is_help=True, rich_markup_mode=None)

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}

Scope = Literal["report", "view", "operate", "admin"]


@app.command("create")
def create(
    *,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The name that the log records for its commands.")],
    scope: Annotated[
        Scope,
        typer.Option(
            "--scope",
            "-s",
            help="report: train the runs of one experiment, or one run. view: read all runs. operate: also send "
            "commands. admin: everything.",
        ),
    ],
    experiment: Annotated[
        str | None,
        typer.Option(
            "--experiment", "-e", help="For scope report: its experiment.", autocompletion=complete_experiment
        ),
    ] = None,
    run: Annotated[
        str | None, typer.Option("--run", "-r", help="For scope report: its run.", autocompletion=complete_run)
    ] = None,
    lasts: Annotated[str | None, typer.Option(metavar="30d", help="Lifetime: 90m, 12h, 30d [until revoked].")] = None,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Create a token and print it.

    The service cannot show it again.
    """
    body = {
        "name": name,
        "scope": scope,
        **without_none(experiment=experiment, run=run, expires_in_s=_seconds(lasts)),
    }
    with connect(url) as service:
        made = service.request("POST", "/v1/tokens", body=body)
    if as_json:
        output.print_json(made)
        return
    # The only line on stdout, so that a pipe or $(...) takes the token and nothing else.
    print(output.safe(made["token"]))
    output.say(f"token {made['id']} ({made['name']}, {made['scope']}), {_ends(made)}; it cannot be shown again")


@app.command("list")
def list_tokens(
    everything: Annotated[bool, typer.Option("--all", help="Also the revoked ones.")] = False,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """List tokens, without their secrets."""
    with connect(url) as service:
        found = [each for each in service.pages("/v1/tokens", "tokens") if everything or each["revoked_at"] is None]
    output.show_list("tokens", found, as_json, lambda: _table(found))


@app.command("revoke")
def revoke(
    token: Annotated[str, typer.Argument(metavar="ID|NAME", help="A token of `remotelr token list`.")], url: Url = None
) -> None:
    """Revoke a token."""
    with connect(url) as service:
        number = int(token) if token.isdecimal() else _number_of(service, token)
        service.request("DELETE", f"/v1/tokens/{number}")
    output.say(f"token {number} is revoked")


@app.command("audit")
def audit(url: Url = None, as_json: AsJson = False) -> None:
    """List changes to tokens and deletions of runs."""
    with connect(url) as service:
        found = list(service.pages("/v1/audit", "entries"))
    output.show({"entries": found}, as_json, lambda: _audit(found))


def _audit(found: list[dict[str, Any]]) -> Any:
    table = output.table("at", "actor", "action", "subject")
    for each in found:
        actor, action = output.safe(each["actor"] or ""), output.safe(each["action"].replace("_", " "))
        table.add_row(output.clock(each["at"]), actor, action, output.safe(each["subject"]))
    return table


def _number_of(service: ServiceClient, name: str) -> int:
    """The number of the token with this name that is not revoked."""
    for each in service.pages("/v1/tokens", "tokens"):
        if each["name"] == name and each["revoked_at"] is None:
            return int(each["id"])
    raise UserError(f"no token has the name {name!r}; see `remotelr token list`")


def _seconds(lasts: str | None) -> int | None:
    if lasts is None:
        return None
    match = re.fullmatch(r"(\d{1,9})([smhd])", lasts)
    if match is None:
        raise UserError(f"--lasts must be a number and s, m, h or d, as in 30d, got {lasts!r}")
    return int(match[1]) * _SECONDS[match[2]]


def _ends(token: dict[str, Any]) -> str:
    return "until it is revoked" if token["expires_at"] is None else f"until {output.clock(token['expires_at'])}"


def _table(found: list[dict[str, Any]]) -> Any:
    table = output.table("id", "name", "scope", "for", "created", "expires", "last used", right=("id",))
    for each in found:
        bound_to = [f"{kind} {each[kind]}" for kind in ("experiment", "run") if each[kind]]
        table.add_row(
            str(each["id"]),
            output.safe(each["name"]),
            each["scope"],
            output.safe(bound_to[0] if bound_to else ""),
            output.ago(each["created_at"]),
            "" if each["expires_at"] is None else output.clock(each["expires_at"]),
            "" if each["last_used_at"] is None else output.ago(each["last_used_at"]),
            style=None if each["revoked_at"] is None else "dim",
        )
    return table
