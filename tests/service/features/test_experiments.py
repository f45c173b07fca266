"""Experiments: settings of new runs, and limits that reach running runs."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from remotelr.rules import (
    AttemptRequest,
    InvalidCommand,
    InvalidPolicy,
    Limits,
    RunSpec,
    policy_from_json,
    policy_to_json,
)
from remotelr_service.errors import ExperimentNotFound, TooManyTags
from remotelr_service.features.bulk import bulk
from remotelr_service.features.experiments import experiments
from remotelr_service.features.experiments.experiments import ExperimentPut, ExperimentSettings
from remotelr_service.features.runs import runs
from remotelr_service.features.training import attempts
from support.fixtures.processes import Process, patiently, together
from support.rules.run_histories import PLATEAU, spec

OPEN = partial(RunSpec, initial_learning_rate=1.0)


def set_up(process: Process, name: str = "digits", **settings: Any) -> ExperimentPut:
    return process.ask(experiments.put_experiment(process.writer, name, ExperimentSettings(**settings), actor="ada"))


def take_limits(process: Process, limits: Limits | None) -> bulk.BulkView:
    """Set the limits, and take them to every run."""
    put = set_up(process, limits=limits)
    assert put.limits_command is not None
    process.ask(bulk.execute_bulk(process.writer, process.reads, put.limits_command))
    return bulk.get_bulk(process.reads, put.limits_command)


def put(process: Process, key: str, wanted: Any = None, **rest: Any) -> Any:
    return process.ask(runs.put_run(process.writer, key, wanted or spec(PLATEAU), **rest))[0]


def test_a_run_without_a_policy_takes_its_experiments(process: Process):
    set_up(process, policy=policy_from_json(PLATEAU))
    view = put(process, "run", OPEN, experiment="digits")

    assert policy_to_json(policy_from_json(PLATEAU)) == policy_to_json(view.run.spec.policy)
    assert 0.5 == process.train("run", [1.0] * 4)[-1]


def test_an_existing_run_keeps_its_policy_if_none_is_given(process: Process):
    made = put(process, "run", experiment="digits")
    set_up(process, policy=policy_from_json({"type": "constant", "learning_rate": 0.1}))

    assert made == put(process, "run", OPEN, experiment="digits")


@pytest.mark.parametrize(("experiment", "action"), [(None, "give one"), ("digits", "PUT /v1/experiments/digits")])
def test_a_new_run_without_any_policy_is_rejected_with_the_action_to_take(
    process: Process, experiment: str | None, action: str
):
    with pytest.raises(InvalidPolicy, match=action):
        put(process, "run", OPEN, experiment=experiment)


def test_a_run_has_its_own_tags_and_those_of_its_experiment_that_it_lacks(process: Process):
    set_up(process, tags={"team": "vision", "site": "b"})
    view = put(process, "run", experiment="digits", tags={"site": "a"})

    assert {"team": "vision", "site": "a"} == view.stored.tags
    with pytest.raises(TooManyTags):
        put(process, "other", experiment="digits", tags={f"t{number}": "" for number in range(31)})


def test_a_new_run_has_the_limits_of_its_experiment(process: Process):
    set_up(process, limits=Limits(max_lr=0.5, max_change=4.0))
    put(process, "run", experiment="digits")

    assert 0.5 == process.stored_run("run").learning_rate
    assert "bounds" == process.report("run", 0, 1.0).reason
    with pytest.raises(InvalidCommand):
        process.command("run", "set_learning_rate", 0.6)
    with pytest.raises(InvalidCommand):
        process.command("run", "scale", 0.1)
    assert process.replayed("run") == process.stored_run("run")


def test_other_limits_reach_every_running_run_and_no_other(process: Process):
    for key, experiment in {"a": "digits", "b": "digits", "ended": "digits", "c": "letters"}.items():
        put(process, key, experiment=experiment)
        process.attempt(key, "first", 0)
    process.finish("ended", "completed")
    view = take_limits(process, Limits(max_lr=0.5))

    assert ["a", "b"] == [each.run for each in view.results]
    assert [0.5, 0.5, 1.0] == [process.report(key, 0, 1.0).learning_rate for key in ("a", "b", "c")]
    assert "limits" == process.events("a")[2].payload["type"]
    assert process.replayed("a") == process.stored_run("a")


def test_removed_limits_bound_no_run(process: Process):
    set_up(process, limits=Limits(max_lr=0.5))
    put(process, "run", experiment="digits")
    process.attempt("run", "first", 0)
    take_limits(process, None)

    assert 1.0 == process.report("run", 0, 1.0).learning_rate


def test_of_two_changes_the_later_one_holds_whichever_is_carried_out_last(process: Process):
    put(process, "run", experiment="digits")
    process.attempt("run", "first", 0)
    older = set_up(process, limits=Limits(max_lr=0.5)).limits_command
    newer = set_up(process, limits=Limits(max_lr=0.25)).limits_command
    assert older is not None and newer is not None
    for each in (newer, older):
        process.ask(bulk.execute_bulk(process.writer, process.reads, each))

    assert 0.25 == process.report("run", 0, 1.0).learning_rate


def test_a_run_that_begins_again_takes_the_limits_that_were_set_after_its_end(process: Process):
    put(process, "run", experiment="digits")
    process.attempt("run", "first", 0)
    process.train("run", [1.0, 0.9])
    process.finish("run", "failed")
    set_up(process, limits=Limits(max_lr=0.5))
    decision = process.attempt("run", "again", 1)

    assert 0.5 == decision.learning_rate
    assert process.replayed("run") == process.stored_run("run")


def test_a_run_that_begins_again_at_the_very_moment_takes_the_new_limits(process: Process):
    """
    The run begins with the old limits in the transaction that sets the new ones and lists the running runs.
    """
    put(process, "run", experiment="digits")
    process.finish("run", "failed")
    again = attempts.begin_attempt(process.writer, "run", AttemptRequest(key="again", epoch=0))
    settings = ExperimentSettings(limits=Limits(max_lr=0.5))
    decision, change = together(process, again, experiments.put_experiment(process.writer, "digits", settings))
    assert 1.0 == decision.learning_rate
    process.ask(bulk.execute_bulk(process.writer, process.reads, change.limits_command))

    assert 0.5 == process.report("run", 0, 1.0).learning_rate
    assert process.replayed("run") == process.stored_run("run")


def test_settings_that_stay_as_they_are_are_no_news(process: Process):
    put(process, "run", experiment="digits")
    set_up(process, limits=Limits(max_lr=0.5), tags={"team": "vision"})
    before = experiments.get_experiment(process.reads, "digits")
    again = set_up(process, limits=Limits(max_lr=0.5), tags={"team": "vision"})

    assert (before, False, None) == (again.experiment, again.is_new, again.limits_command)


def test_an_experiment_is_there_when_a_run_has_named_it(process: Process):
    put(process, "run", experiment="letters")
    set_up(process)
    page = experiments.list_experiments(process.reads, limit=1)
    rest = experiments.list_experiments(process.reads, after=page.after)

    assert (["digits"], ["letters"]) == (
        [each.name for each in page.experiments],
        [each.name for each in rest.experiments],
    )
    assert rest.after is None
    with pytest.raises(ExperimentNotFound, match="PUT /v1/experiments/nowhere"):
        experiments.get_experiment(process.reads, "nowhere")


def test_runs_created_at_once_make_their_experiment_once(postgres_url: str, start_process: Callable[..., Process]):
    here, there = start_process(postgres_url), start_process(postgres_url)
    views = here.ask_all(
        *(
            patiently(partial(runs.put_run, each.writer, f"run-{number}", spec(PLATEAU), experiment="digits"))
            for number in range(10)
            for each in (here, there)
        )
    )

    assert {True, False} == {is_new for _, is_new in views}
    assert ["digits"] == [each.name for each in experiments.list_experiments(here.reads).experiments]


def test_no_run_escapes_limits_that_are_set_while_it_is_created(
    postgres_url: str, start_process: Callable[..., Process]
):
    """
    The creator has read the old limits, and the writer of the new limits has already listed the running runs.
    """
    here, there = start_process(postgres_url), start_process(postgres_url)
    set_up(here)
    for number in range(8):
        limits = Limits(max_lr=0.5 / (number + 1))
        created, put = here.ask_all(
            patiently(partial(runs.put_run, here.writer, f"run-{number}", spec(PLATEAU), experiment="digits")),
            patiently(partial(experiments.put_experiment, there.writer, "digits", ExperimentSettings(limits=limits))),
        )
        assert not isinstance(created, Exception) and not isinstance(put, Exception), (created, put)
        if put.limits_command is not None:
            here.ask(bulk.execute_bulk(here.writer, here.reads, put.limits_command))

        assert limits == here.stored_run(f"run-{number}").spec.limits
