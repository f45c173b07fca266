"""`remotelr runs why`, `what-if` and `replay-policy`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from remotelr_service.cli.support import output
from remotelr_service.cli.support.http_client import Json, connect, run_path
from remotelr_service.cli.support.json_input import read_object
from remotelr_service.cli.support.options import AsJson, RunKey, Url
from remotelr_service.errors import UserError

_SPARKS = 40
_NUMBERS = ("first", "last", "reductions")


def what_if(
    run: RunKey,
    policies: Annotated[
        list[str],
        typer.Argument(metavar="[NAME=]POLICY...", help="Up to 8 policies: JSON files, or JSON itself."),
    ],
    svg: Annotated[Path | None, typer.Option(metavar="FILE", help="Also draw the curves into this SVG file.")] = None,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Replay a run's metrics under other policies."""
    body = {"policies": dict(_named(each, number) for number, each in enumerate(policies, 1))}
    with connect(url) as service:
        found = service.request("POST", run_path(run, "what-if"), body=body)
        if svg is not None:
            _write(svg, service.text("POST", run_path(run, "what-if"), "image/svg+xml", body=body))
    output.show(found, as_json, lambda: _comparison(found))


def why(
    run: RunKey,
    epoch: Annotated[int | None, typer.Argument(metavar="[EPOCH]", help="The epoch [the newest decided one].")] = None,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Explain the rate of an epoch."""
    with connect(url) as service:
        wanted = service.get(run_path(run))["epoch"] if epoch is None else epoch
        found = service.get(run_path(run, "decisions", str(wanted)))
    output.show(found, as_json, lambda: output.safe(found["sentence"]))


def replay_policy(run: RunKey, url: Url = None, as_json: AsJson = False) -> None:
    """Print the rates of a run as a policy.

    A new run with this policy gets the same rates, whatever its metrics are.
    """
    with connect(url) as service:
        found = service.get(run_path(run, "replay-policy"))
    output.print_json(found if as_json else found["policy"])
    for note in found["notes"]:
        output.say(note)


def _write(file: Path, text: str) -> None:
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"{file} cannot be written: {error.strerror}") from None


def _named(given: str, number: int) -> tuple[str, Any]:
    """Name and document of NAME=POLICY. Without a name: the file's stem, or the number and the schedule's type."""
    name, equals, rest = given.partition("=")
    if equals and name.replace("-", "").replace("_", "").replace(".", "").isalnum():
        return name, read_object(rest)
    document = read_object(given)
    if not given.lstrip().startswith("{"):
        return Path(given).stem, document
    node = document.get("schedule", document)
    return f"{number}-{node.get('type', 'policy') if isinstance(node, dict) else 'policy'}", document


def _comparison(found: Json) -> Any:
    curves = {"actual": {"learning_rates": found["actual"]}, **found["policies"]}
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
