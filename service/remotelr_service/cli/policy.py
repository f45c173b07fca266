"""`remotelr policy`: check, draw and convert policies, without a service."""

import csv
import sys
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import typer

from remotelr_service.cli.support import output, plot
from remotelr_service.cli.support.json_input import read_document, read_object
from remotelr_service.cli.support.options import AsJson
from remotelr_service.errors import UserError

app = typer.Typer(help="Check, draw and convert policies.", no_args_is_help=True, rich_markup_mode=None)

Policy = Annotated[str, typer.Argument(metavar="POLICY", help="A JSON file, JSON itself, or - for stdin.")]


@app.command()
def validate(policy: Policy, as_json: AsJson = False) -> None:
    """Check a policy and print its stored form.

    Accepts class names and parameters of Keras, torch, optax, timm and transformers.
    """
    from remotelr.rules import policy_from_json, policy_to_json

    canonical = policy_to_json(policy_from_json(read_object(policy)))
    output.print_json({"valid": True, "policy": canonical} if as_json else canonical)
    if not as_json:
        output.say("valid")


@app.command()
def preview(
    *,
    policy: Policy,
    initial_learning_rate: Annotated[
        float | None, typer.Option("--lr", help="Initial rate, if the policy has none.")
    ] = None,
    count: Annotated[int, typer.Option("--count", "-n", min=1, max=100_000, help="Number of epochs or steps.")] = 50,
    start: Annotated[int, typer.Option(min=0, help="First epoch or step.")] = 0,
    losses: Annotated[
        str | None,
        typer.Option(help="Metrics of epoch 0, 1, 2… for plateaus: 0.9,0.8,0.8 or a JSON file."),
    ] = None,
    steps_per_epoch: Annotated[int, typer.Option(min=1, help="Steps per epoch, for a policy in steps.")] = 1,
    total: Annotated[int | None, typer.Option(min=1, help="Length of the run [that of the drawing].")] = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
    as_json: AsJson = False,
) -> None:
    """Draw the curve of a policy."""
    from remotelr.rules import policy_from_json
    from remotelr.rules import preview as preview_of

    parsed = policy_from_json(read_object(policy))
    curve = preview_of(
        parsed,
        initial_learning_rate,
        count,
        start,
        _metrics(losses, next(iter(parsed.monitors()), "val_loss")),
        steps_per_epoch=steps_per_epoch,
        total=total,
    )
    rates, momentum = list(curve.learning_rates), None if curve.momentum is None else list(curve.momentum)
    if as_json:
        output.print_json({"learning_rates": rates, "momentum": momentum})
    elif as_csv:
        rows = csv.writer(sys.stdout)
        rows.writerow([parsed.unit, "learning_rate"])
        rows.writerows(enumerate(rates, start))
    else:
        print(plot.plot(rates, start=start, unit=parsed.unit))
        print(
            f"first {output.rate(rates[0])}  lowest {output.rate(min(rates))}  highest {output.rate(max(rates))}  "
            f"last {output.rate(rates[-1])}"
        )


@app.command()
def convert(
    config: Annotated[
        str,
        typer.Argument(metavar="CONFIG", help="A JSON file, JSON itself, or - for stdin."),
    ],
    unit: Annotated[
        Literal["epoch", "step"] | None, typer.Option(help="Unit of a position [step for Keras schedules, else epoch].")
    ] = None,
    type: Annotated[
        str | None, typer.Option("--type", help="The class, if the JSON has none: StepLR, for a state_dict.")
    ] = None,
) -> None:
    """Convert another library's schedule to a policy.

    Accepts a schedule or optimizer as serialized by keras.saving, the arguments of ReduceLROnPlateau, and a torch
    scheduler as class and arguments, or as state_dict with --type.
    """
    from remotelr.rules import policy_from_json, policy_to_json

    schedule = _schedule_in(read_object(config), type)
    counts_steps = "class_name" in schedule and schedule["class_name"] != "ReduceLROnPlateau"
    chosen = unit or ("step" if counts_steps else "epoch")
    document = schedule if "schedule" in schedule else {"schedule": schedule, "unit": chosen}
    output.print_json(policy_to_json(policy_from_json(document)))


def _schedule_in(config: Mapping[str, Any], type: str | None) -> dict[str, Any]:
    inner = config.get("config")
    if isinstance(inner, dict) and isinstance(inner.get("learning_rate"), dict):
        # A Keras optimizer.
        return dict(inner["learning_rate"])
    if type is not None:
        return {"type": type, **_arguments(config)}
    if not {"type", "class_name", "schedule"} & config.keys() and "patience" in config:
        return {"type": "ReduceLROnPlateau", "flavor": "keras", **config}
    return dict(config)


def _arguments(state: Mapping[str, Any]) -> dict[str, Any]:
    """The constructor arguments of a torch scheduler, from its state_dict."""
    progress = {"last_epoch", "num_bad_epochs", "cooldown_counter", "best", "mode_worse"}
    arguments = {name: value for name, value in state.items() if not name.startswith("_") and name not in progress}
    bases = arguments.pop("base_lrs", None)
    if bases is not None and (not isinstance(bases, list) or len({repr(base) for base in bases}) != 1):
        raise UserError(f"base_lrs must hold one rate for all parameter groups, got {bases}")
    return arguments | ({"base_lr": bases[0]} if bases else {})


def _metrics(losses: str | None, monitor: str) -> list[dict[str, float]]:
    """The metrics of each epoch: numbers are values of `monitor`, objects have all metrics."""
    if losses is None:
        return []
    try:
        points: Any = [float(value) for value in losses.split(",")]
    except ValueError:
        points = read_document(losses)
    try:
        return [
            {name: float(value) for name, value in (point if isinstance(point, dict) else {monitor: point}).items()}
            for point in points
        ]
    except (TypeError, ValueError):
        raise UserError(
            '--losses must be numbers separated by commas, or a JSON file like [0.9, 0.8] or [{"val_loss": 0.9}]'
        ) from None
