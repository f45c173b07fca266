"""`remotelr runs why`, `what-if` and `replay-policy`: why it was so, how else it could have been, and once more."""

from pathlib import Path
from typing import Annotated, Any

import typer

from remotelr_service.cli.support import output
from remotelr_service.cli.support.http_client import Json, connect, run_path
from remotelr_service.cli.support.json_input import read_object
from remotelr_service.cli.support.options import AsJson, RunKey, Url
from remotelr_service.errors import UserError

_SPARKS = 40


def what_if(
    run: RunKey,
    policies: Annotated[
        list[str],
        typer.Argument(metavar="[NAME=]POLICY...", help="Up to 8: files of JSON, or JSON itself; each with a name."),
    ],
    svg: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also draw them side by side into this file.")
    ] = None,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Replay its losses under other policies."""
    body = {"policies": dict(_named(each, number) for number, each in enumerate(policies, 1))}
    with connect(url) as desk:
        found = desk.ask("POST", run_path(run, "what-if"), body=body)
        if svg is not None:
            _write(svg, desk.text("POST", run_path(run, "what-if"), "image/svg+xml", body=body))
    output.show(found, as_json, lambda: _side_by_side(found))


def why(
    run: RunKey,
    epoch: Annotated[
        int | None, typer.Argument(metavar="[EPOCH]", help="Of the decision in force, if not given.")
    ] = None,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Say why an epoch has its rate."""
    with connect(url) as desk:
        wanted = desk.get(run_path(run))["epoch"] if epoch is None else epoch
        found = desk.get(run_path(run, "decisions", str(wanted)))
    output.show(found, as_json, lambda: output.safe(found["sentence"]))


def replay_policy(run: RunKey, url: Url = None, as_json: AsJson = False) -> None:
    """Print what really happened as a policy.

    A new run with it gets the same rates, whatever it measures.
    """
    with connect(url) as desk:
        found = desk.get(run_path(run, "replay-policy"))
    output.print_json(found if as_json else found["policy"])
    for note in found["notes"]:
        output.say(note)


def _write(file: Path, text: str) -> None:
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"{file} cannot be written: {error.strerror}") from None


def _named(given: str, number: int) -> tuple[str, Any]:
    """NAME=POLICY as the two; a file has a name already, and JSON has its type."""
    name, equals, rest = given.partition("=")
    if equals and name.replace("-", "").replace("_", "").replace(".", "").isalnum():
        return name, read_object(rest)
    document = read_object(given)
    if not given.lstrip().startswith("{"):
        return Path(given).stem, document
    node = document.get("schedule", document)
    return f"{number}-{node.get('type', 'policy') if isinstance(node, dict) else 'policy'}", document


def _side_by_side(found: Json) -> Any:
    curves = {"as it was": {"learning_rates": found["actual"]}, **found["policies"]}
    table = output.table("policy", "rates", "first", "last", "reductions", "stops at", right=_NUMBERS)
    for name, curve in curves.items():
        rates = curve["learning_rates"]
        table.add_row(
            output.safe(name),
            output.spark(output.thinned(rates, _SPARKS), _SPARKS, logarithmic=True),
            output.rate(rates[0]) if rates else "",
            output.rate(rates[-1]) if rates else "",
            str(curve.get("reductions", "")),
            "" if curve.get("stops_at") is None else f"epoch {curve['stops_at']}",
        )
    return table


_NUMBERS = ("first", "last", "reductions")
