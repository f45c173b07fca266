"""Charts of previews and of what-if results, with a description for screen readers."""

from collections.abc import Sequence
from typing import Literal

from starlette.responses import Response

from remotelr.rules import Preview
from remotelr_service.features.policies.svg_chart import Line, line_chart
from remotelr_service.features.policies.what_if import WhatIf
from remotelr_service.http.negotiation import SVG

# Above this number of positions steps look like a slope, and a slope is a shorter path.
_MAX_STEPS = 500


def preview_chart(curve: Preview, start: int, unit: Literal["epoch", "step"]) -> Response:
    """The curve of a policy as SVG."""
    rates = curve.learning_rates
    last = start + len(rates) - 1
    description = f"The learning rate from {unit} {start} to {unit} {last}: {_describe(rates)}."
    line = _line("learning rate", range(start, last + 1), rates, held=unit == "epoch")
    return _svg(line_chart("Learning rate of a policy", description, [line], x_name=unit, y_name="learning rate"))


def what_if_chart(run: str, answer: WhatIf) -> Response:
    """The actual rates of a run, in black, and its rates under other policies, as SVG."""
    lines = [_line("actual rates", answer.epochs, answer.actual, held=True, strong=True)]
    descriptions = [f"Actual rates: {_describe(answer.actual)}."]
    for name, each in answer.alternatives.items():
        lines.append(_line(name, answer.epochs, each.learning_rates, held=True))
        descriptions.append(f"Under {name}: {_describe(each.learning_rates)}.")
    title = f"{run} under other policies"
    return _svg(line_chart(title, " ".join(descriptions), lines, x_name="epoch", y_name="learning rate"))


def _line(name: str, positions: Sequence[int], rates: Sequence[float], *, held: bool, strong: bool = False) -> Line:
    points = [(float(position), rate) for position, rate in zip(positions, rates, strict=True)]
    if held:
        # Draw the last rate as long as the others.
        points.append((points[-1][0] + 1, points[-1][1]))
    return Line(name, points, held=held and len(points) <= _MAX_STEPS, strong=strong)


def _describe(rates: Sequence[float]) -> str:
    return f"from {rates[0]:.6g} to {rates[-1]:.6g}, at least {min(rates):.6g} and at most {max(rates):.6g}"


def _svg(document: str) -> Response:
    return Response(document, media_type=SVG)
