"""Records made by `quick` are the frozen dataclasses they were, and only faster."""

import copy
import dataclasses
import pickle
from collections.abc import Mapping
from dataclasses import FrozenInstanceError, dataclass, field
from typing import Any

import pytest

from remotelr import rules
from remotelr.rules import Decision, Event, Report
from remotelr.rules.log import MemoryLog
from remotelr.rules.records import quick, replace
from remotelr.rules.run import Outcome, Run
from remotelr.rules.state import RunState
from stories import PLATEAU, spec


@dataclass(frozen=True, slots=True, kw_only=True)
class Plain:
    name: str
    size: int = 3
    notes: Mapping[str, Any] = field(default_factory=dict)


@quick
@dataclass(frozen=True, slots=True, kw_only=True)
class Quick:
    name: str
    size: int = 3
    notes: Mapping[str, Any] = field(default_factory=dict)


@quick
@dataclass(frozen=True, slots=True)
class ByPlace:
    name: str
    size: int = 3


def test_a_record_is_made_as_a_dataclass_is():
    for given in ({"name": "a"}, {"name": "a", "size": 0}, {"name": "a", "notes": {"b": 1}}):
        assert dataclasses.asdict(Plain(**given)) == dataclasses.asdict(Quick(**given))


def test_a_record_has_a_default_of_its_own_where_it_is_made_anew_for_each():
    assert Quick(name="a").notes is not Quick(name="a").notes


def test_fields_that_stand_in_a_place_are_given_by_place_or_by_name():
    assert ByPlace("a") == ByPlace(size=3, name="a")


@pytest.mark.parametrize("given", [{}, {"name": "a", "colour": "red"}])
def test_a_field_that_is_missing_or_unknown_is_refused(given):
    with pytest.raises(TypeError, match=r"name|colour"):
        Quick(**given)


def test_fields_that_take_no_place_are_refused_in_one():
    with pytest.raises(TypeError):
        Quick("a")  # type: ignore[misc]


def test_a_changed_record_is_another_one_and_the_first_stays():
    first = Quick(name="a", notes={"b": 1})
    second = replace(first, size=7)

    assert (Quick(name="a", notes={"b": 1}), Quick(name="a", size=7, notes={"b": 1})) == (first, second)
    with pytest.raises(TypeError, match="colour"):
        replace(first, colour="red")


def test_a_field_is_changed_to_none_too():
    run = replace(Report(epoch=1, metrics={}, step=7), step=None)

    assert run.step is None


def test_nobody_changes_a_record_in_place():
    record = Quick(name="a")
    with pytest.raises(FrozenInstanceError):
        record.size = 4  # type: ignore[misc]


def test_records_are_copied_pickled_and_changed_by_dataclasses_as_before():
    record = Quick(name="a", notes={"b": 1})

    assert record == copy.deepcopy(record) == dataclasses.replace(record)
    report = Report(epoch=1, metrics={"loss": 0.5})
    assert report == pickle.loads(pickle.dumps(report))


def records() -> list[Any]:
    """One of each kind that a report makes, as it made it."""
    created = rules.create("run", spec(PLATEAU))
    report = Report(epoch=0, metrics={"val_loss": 0.5})
    outcome = rules.report(created.run, report, MemoryLog([created.event] if created.event else []))
    return [report, outcome, outcome.run, outcome.run.state, outcome.event, outcome.answer]


@pytest.mark.parametrize("record", records(), ids=lambda record: type(record).__name__)
def test_what_a_report_makes_is_changed_as_dataclasses_change_it(record: Any):
    assert isinstance(record, Report | Outcome | Run | RunState | Event | Decision)
    for each in dataclasses.fields(record):
        assert dataclasses.replace(record, **{each.name: None}) == replace(record, **{each.name: None})
    assert record == replace(record)
