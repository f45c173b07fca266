"""Output of the command line."""

from datetime import UTC, datetime, timedelta
from math import inf, nan

import pytest

from remotelr_service.cli.support import output
from remotelr_service.cli.support.plot import plot


@pytest.mark.parametrize(
    ("values", "bars"),
    [
        ([], ""),
        ([3.0], "▁"),
        ([1.0, 1.0, 1.0], "▁▁▁"),
        ([0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0], "▁▂▃▄▅▆▇█"),
        ([1.0, nan, 0.0, inf], "█x▁x"),
        ([nan], "x"),
    ],
)
def test_a_sparkline_shows_bars_and_an_x_for_values_that_are_not_finite(values, bars):
    assert bars == output.spark(values)


def test_a_logarithmic_sparkline_shows_equal_factors_equally():
    assert "█▅▁" == output.spark([1.0, 0.1, 0.01], logarithmic=True)
    assert "█▁▁" == output.spark([1.0, 0.1, 0.0], logarithmic=True)


def test_a_sparkline_shows_the_newest_values():
    assert "▁█" == output.spark([5.0, 1.0, 2.0], 2)


def test_drawings_are_ascii_if_the_encoding_has_no_blocks(monkeypatch):
    for module in ("output", "plot"):
        monkeypatch.setattr(f"remotelr_service.cli.support.{module}.shows", lambda characters: characters.isascii())

    assert "_#@" == output.spark([0.0, 5.5, 7.0])
    assert plot([1.0, 0.0], width=10, height=3).isascii()


@pytest.mark.parametrize(
    ("seconds", "result"),
    [(0, "now"), (5, "5 s ago"), (89, "89 s ago"), (120, "2 min ago"), (7200, "2 h ago"), (200_000, "2 days ago")],
)
def test_an_age_has_a_fitting_unit(seconds, result):
    now = datetime(2026, 1, 2, tzinfo=UTC)

    assert result == output.ago((now - timedelta(seconds=seconds)).isoformat(), now)


def test_thinned_values_include_the_first_and_the_last():
    assert [0.0, 50.0, 100.0] == output.thinned([float(value) for value in range(101)], 3)
    assert [1.0, 2.0] == output.thinned([1.0, 2.0], 3)


def test_a_plot_has_axes():
    lines = plot([1.0, 1.0, 0.0, 0.0], width=4, height=3, start=7).splitlines()

    assert ["  1 │⠉⠉", "0.5 │", "  0 │"] == [
        line[: line.find("│") + (3 if line.startswith("  1") else 1)] for line in lines[:3]
    ]
    assert ["epoch", "7", "10"] == lines[3].split()


def test_a_plot_of_no_finite_value_is_empty():
    assert "nothing to draw" == plot([nan, inf])
    assert plot([0.5], width=4, height=3).count("\n") == 3
