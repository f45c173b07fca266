"""Records behave as the dataclasses that they look like; that no code changes them is for the type checker."""

import copy
import dataclasses
import pickle
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import field
from pathlib import Path
from typing import Any

import pytest

from remotelr import rules
from remotelr.rules import Decision, Event, Report
from remotelr.rules.run.events import MemoryLog
from remotelr.rules.run.model import Outcome, Run
from remotelr.rules.run.state import RunState
from remotelr.rules.values.records import record, replace
from support.rules.run_histories import PLATEAU, spec


@record
class Sheep:
    name: str
    size: int = 3
    notes: Mapping[str, Any] = field(default_factory=dict)


def test_a_record_has_its_defaults_and_those_that_are_made_anew_for_each():
    assert ("a", 3, {}) == dataclasses.astuple(Sheep(name="a"))
    assert Sheep(name="a").notes is not Sheep(name="a").notes


@pytest.mark.parametrize("given", [{}, {"name": "a", "colour": "red"}])
def test_a_field_that_is_missing_or_unknown_is_refused(given):
    with pytest.raises(TypeError, match=r"name|colour"):
        Sheep(**given)


def test_fields_take_no_place():
    with pytest.raises(TypeError):
        Sheep("a")  # type: ignore[misc]


def test_a_changed_record_is_another_one_and_the_first_stays():
    first = Sheep(name="a", notes={"b": 1})
    second = replace(first, size=7)

    assert (Sheep(name="a", notes={"b": 1}), Sheep(name="a", size=7, notes={"b": 1})) == (first, second)


@record
class Dolly(Sheep):
    copied: bool = False


def test_a_record_of_a_record_is_changed_with_all_that_it_has_of_it():
    assert Dolly(name="b", size=3, copied=True) == replace(Dolly(name="a", copied=True), name="b")


def test_a_record_gets_no_field_that_it_has_not():
    with pytest.raises(AttributeError, match="colour"):
        replace(Sheep(name="a"), colour="red")  # type: ignore[call-arg]


def test_records_are_copied_and_pickled():
    report = Report(epoch=1, metrics={"loss": 0.5})

    assert report == copy.deepcopy(report) == pickle.loads(pickle.dumps(report))


def test_the_type_checker_rejects_an_assignment_to_a_record(tmp_path: Path):
    wrong = tmp_path / "wrong.py"
    wrong.write_text(
        "from remotelr.rules import Report\n"
        "from remotelr.rules.values.records import replace\n"
        "report = Report(epoch=0, metrics={})\n"
        "report.epoch = 1\n"
        "replace(report, epoch='1')\n"
        "replace(report, colour=1)\n"
    )
    done = subprocess.run([sys.executable, "-m", "mypy", wrong], capture_output=True, text=True, check=False)

    assert ["4", "5", "6"] == [line.split(":")[1] for line in done.stdout.splitlines() if ": error:" in line]


def made_by_a_report() -> list[Any]:
    created = rules.create("run", spec(PLATEAU))
    log = MemoryLog([created.event] if created.event else [])
    report = Report(epoch=0, metrics={"val_loss": 0.5})
    outcome = rules.report(created.run, report, log)
    return [report, outcome, outcome.run, outcome.run.state, outcome.event, outcome.answer]


@pytest.mark.parametrize("made", made_by_a_report(), ids=lambda made: type(made).__name__)
def test_what_a_report_makes_is_changed_as_dataclasses_change_it(made: Any):
    assert isinstance(made, Report | Outcome | Run | RunState | Event | Decision)
    for each in dataclasses.fields(made):
        assert dataclasses.replace(made, **{each.name: None}) == replace(made, **{each.name: None})
    assert made == replace(made)
