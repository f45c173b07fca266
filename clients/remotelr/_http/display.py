"""Runs and decisions for notebooks: HTML with a small curve, a DataFrame, and a figure."""

import html
import math
from collections.abc import Mapping, Sequence
from typing import Any

from remotelr._http.responses import ReportRecord, RunView
from remotelr.rules import Decision

_WIDTH, _HEIGHT, _MARGIN = 360, 90, 4
_COLOUR = "#1f6feb"


def run_html(view: RunView, rows: Sequence[ReportRecord], url: str) -> str:
    """A table of the run and the curve of its rates. rows: effective reports."""
    facts: dict[str, Any] = {
        "service": url,
        "status": view.status,
        "epoch": view.epoch,
        "learning rate": f"{view.learning_rate:.6g}",
    }
    if rows:
        facts |= {name: f"{value:.6g}" for name, value in rows[-1].metrics.items()}
    rates = [row.learning_rate for row in rows if row.learning_rate is not None]
    return f"<b>run {html.escape(view.key)}</b>{_table(facts)}{curve_svg(rates)}"


def decision_html(decision: Decision) -> str:
    """A table of what a decision says."""
    facts: dict[str, Any] = {
        "epoch": decision.epoch,
        "learning rate": f"{decision.learning_rate:.6g}",
        "reason": decision.reason,
        "action": decision.action,
        **(decision.plateau or {}),
    }
    return f"<b>decision for epoch {decision.epoch} of run {html.escape(decision.run)}</b>{_table(facts)}"


def curve_svg(values: Sequence[float]) -> str:
    """The values as a line, logarithmic where all are > 0; empty for fewer than two."""
    if len(values) < 2:
        return ""
    heights = [math.log(value) for value in values] if min(values) > 0 else list(values)
    low, high = min(heights), max(heights)
    across, up = _WIDTH - 2 * _MARGIN, _HEIGHT - 2 * _MARGIN
    points = " ".join(
        f"{_MARGIN + across * index / (len(heights) - 1):.1f},"
        f"{_MARGIN + up * (1 - (height - low) / (high - low or 1)):.1f}"
        for index, height in enumerate(heights)
    )
    label = f"learning rate from {values[0]:.6g} to {values[-1]:.6g} in {len(values)} epochs"
    return (
        f'<svg width="{_WIDTH}" height="{_HEIGHT}" role="img" aria-label="{label}"><title>{label}</title>'
        f'<polyline points="{points}" fill="none" stroke="{_COLOUR}" stroke-width="1.5"/></svg>'
    )


def to_dataframe(rows: Sequence[ReportRecord]) -> Any:
    """One row per report, with a column for each metric. Raises ImportError without pandas."""
    try:
        import pandas as pd  # type: ignore[import-untyped,unused-ignore]  # noqa: PLC0415 - optional
    except ImportError as error:
        raise ImportError("to_dataframe needs pandas: pip install pandas") from error
    return pd.DataFrame([_flat(row) for row in rows])


def plot(rows: Sequence[ReportRecord], title: str) -> Any:
    """A matplotlib figure: the rates above the metrics. Raises ImportError without matplotlib."""
    try:
        from matplotlib.figure import Figure  # type: ignore[import-not-found,unused-ignore]  # noqa: PLC0415
    except ImportError as error:
        raise ImportError("plot needs matplotlib: pip install matplotlib") from error
    figure = Figure(figsize=(7, 5), layout="constrained")
    above, below = figure.subplots(2, sharex=True)
    known = [(row.epoch, row.learning_rate) for row in rows if row.learning_rate is not None]
    above.step([epoch for epoch, _ in known], [rate for _, rate in known], where="post")
    above.set(title=title, ylabel="learning rate", yscale="log" if all(rate > 0 for _, rate in known) else "linear")
    for name in dict.fromkeys(name for row in rows for name in row.metrics):
        with_it = [row for row in rows if name in row.metrics]
        below.plot([row.epoch for row in with_it], [row.metrics[name] for row in with_it], label=name)
    below.set(xlabel="epoch")
    if rows and rows[0].metrics:
        below.legend()
    return figure


def _flat(row: ReportRecord) -> dict[str, Any]:
    names = ("epoch", "attempt", "rank", "learning_rate", "used_learning_rate", "next_learning_rate", "reason")
    return {**{name: getattr(row, name) for name in names}, **row.metrics}


def _table(facts: Mapping[str, Any]) -> str:
    cells = "".join(
        f"<tr><th>{html.escape(str(name))}</th><td>{html.escape(str(value))}</td></tr>"
        for name, value in facts.items()
        if value is not None
    )
    return f"<table>{cells}</table>"
