"""The curves of policies and of runs as pictures: what `chart.py` is to draw, and the words for those who listen."""

from collections.abc import Sequence
from typing import Literal

from starlette.responses import Response

from remotelr.rules import Preview
from remotelr_service.features.policies.svg_chart import Line, line_chart
from remotelr_service.features.policies.what_if import WhatIf
from remotelr_service.http.negotiation import SVG

# Beyond so many positions a staircase looks like a slope, and a slope costs less.
_STAIRS = 500


def picture_of_preview(curve: Preview, start: int, unit: Literal["epoch", "step"]) -> Response:
    """The curve of a policy as SVG."""
    rates = curve.learning_rates
    last = start + len(rates) - 1
    told = f"The learning rate from {unit} {start} to {unit} {last}: {_in_words(rates)}."
    line = _line("learning rate", range(start, last + 1), rates, held=unit == "epoch")
    return _svg(line_chart("Learning rate of a policy", told, [line], x_name=unit, y_name="learning rate"))


def picture_of_what_if(run: str, answer: WhatIf) -> Response:
    """The curves of a run side by side as SVG: what it had, in black, and what it would have had."""
    lines = [_line("what really happened", answer.epochs, answer.actual, held=True, strong=True)]
    told = [f"What really happened: {_in_words(answer.actual)}."]
    for name, each in answer.alternatives.items():
        lines.append(_line(name, answer.epochs, each.learning_rates, held=True))
        told.append(f"Under {name}: {_in_words(each.learning_rates)}.")
    title = f"{run} under other policies"
    return _svg(line_chart(title, " ".join(told), lines, x_name="epoch", y_name="learning rate"))


def _line(name: str, positions: Sequence[int], rates: Sequence[float], *, held: bool, strong: bool = False) -> Line:
    points = [(float(position), rate) for position, rate in zip(positions, rates, strict=True)]
    if held:
        # The last rate holds for as long as the others.
        points.append((points[-1][0] + 1, points[-1][1]))
    return Line(name, points, held=held and len(points) <= _STAIRS, strong=strong)


def _in_words(rates: Sequence[float]) -> str:
    return f"from {rates[0]:.6g} to {rates[-1]:.6g}, at least {min(rates):.6g} and at most {max(rates):.6g}"


def _svg(document: str) -> Response:
    return Response(document, media_type=SVG)
