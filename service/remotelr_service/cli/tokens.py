"""`remotelr token`: who gets in, and how far."""

import re
from enum import StrEnum
from typing import Annotated, Any

import typer

from remotelr_service.cli.support import output
from remotelr_service.cli.support.http_client import ServiceClient, connect
from remotelr_service.cli.support.options import AsJson, Url, complete_experiment, complete_run, given
from remotelr_service.errors import UserError

app = typer.Typer(help="Who gets in, and how far.", no_args_is_help=True, rich_markup_mode=None)

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


class Scope(StrEnum):
    """What a token is good for."""

    REPORT = "report"
    VIEW = "view"
    OPERATE = "operate"
    ADMIN = "admin"


@app.command("create")
def create(
    *,
    name: Annotated[str, typer.Argument(metavar="NAME", help="What its orders are noted under.")],
    scope: Annotated[
        Scope,
        typer.Option(
            "--scope",
            "-s",
            help="report: train the runs of one experiment, or one run. view: see. operate: see and order. "
            "admin: everything.",
        ),
    ],
    experiment: Annotated[
        str | None, typer.Option("--experiment", "-e", help="Of report: this one.", autocompletion=complete_experiment)
    ] = None,
    run: Annotated[
        str | None, typer.Option("--run", "-r", help="Of report: this one.", autocompletion=complete_run)
    ] = None,
    lasts: Annotated[str | None, typer.Option(metavar="30d", help="How long: 90m, 12h, 30d [until revoked].")] = None,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Make a token, and print it this once."""
    body = {"name": name, "scope": scope.value, **given(experiment=experiment, run=run, expires_in_s=_seconds(lasts))}
    with connect(url) as desk:
        made = desk.post("/v1/tokens", body)
    if as_json:
        output.print_json(made)
        return
    # Alone on stdout, so that it can go where it belongs without being seen.
    print(output.safe(made["token"]))
    output.say(f"token {made['id']} ({made['name']}, {made['scope']}), {_ends(made)}: nobody can show it again")


@app.command("list")
def list_tokens(
    everything: Annotated[bool, typer.Option("--all", help="Also those that are revoked.")] = False,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """List tokens; never the words themselves."""
    with connect(url) as desk:
        found = [each for each in desk.pages("/v1/tokens", "tokens") if everything or each["revoked_at"] is None]
    output.show({"tokens": found}, as_json, lambda: _table(found))
    if not found and not as_json:
        output.say("no tokens")


@app.command("revoke")
def revoke(
    token: Annotated[str, typer.Argument(metavar="ID|NAME", help="As `remotelr token list` says.")], url: Url = None
) -> None:
    """Let nobody in with a token any more."""
    with connect(url) as desk:
        number = int(token) if token.isdecimal() else _number_of(desk, token)
        desk.delete(f"/v1/tokens/{number}")
    output.say(f"token {number} is revoked")


@app.command("audit")
def audit(url: Url = None, as_json: AsJson = False) -> None:
    """List what was done to tokens, and to runs that are gone."""
    with connect(url) as desk:
        found = list(desk.pages("/v1/audit", "entries"))
    output.show({"entries": found}, as_json, lambda: _audit(found))


def _audit(found: list[dict[str, Any]]) -> Any:
    table = output.table("at", "who", "did", "to")
    for each in found:
        who, did = output.safe(each["actor"] or ""), each["action"].replace("_", " ")
        table.add_row(output.clock(each["at"]), who, output.safe(did), output.safe(each["subject"]))
    return table


def _number_of(desk: ServiceClient, name: str) -> int:
    """The number of the token that has this name now."""
    for each in desk.pages("/v1/tokens", "tokens"):
        if each["name"] == name and each["revoked_at"] is None:
            return int(each["id"])
    raise UserError(f"no token has the name {name!r}: see remotelr token list")


def _seconds(lasts: str | None) -> int | None:
    if lasts is None:
        return None
    match = re.fullmatch(r"(\d{1,9})([smhd])", lasts)
    if match is None:
        raise UserError(f"--lasts is a number with s, m, h or d behind it, as in 30d; not {lasts!r}")
    return int(match[1]) * _SECONDS[match[2]]


def _ends(token: dict[str, Any]) -> str:
    return "until it is revoked" if token["expires_at"] is None else f"until {output.clock(token['expires_at'])}"


def _table(found: list[dict[str, Any]]) -> Any:
    table = output.table("id", "name", "scope", "for", "made", "expires", "last used", right=("id",))
    for each in found:
        kept = (
            (each["experiment"] and f"experiment {each['experiment']}") or (each["run"] and f"run {each['run']}") or ""
        )
        table.add_row(
            str(each["id"]),
            output.safe(each["name"]),
            each["scope"],
            output.safe(kept),
            output.ago(each["created_at"]),
            "" if each["expires_at"] is None else output.clock(each["expires_at"]),
            "" if each["last_used_at"] is None else output.ago(each["last_used_at"]),
            style=None if each["revoked_at"] is None else "dim",
        )
    return table
