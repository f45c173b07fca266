"""A job that restarts with another policy or length: the session raises, or applies `on_conflict`."""

import pytest

from remotelr import ServiceRefused
from remotelr.rules import PolicyConflict
from remotelr.testing import InMemoryService
from support.jobs import PLATEAU, QUIET, Job, trained_job, undisturbed

FALLING = {"type": "expression", "expression": "base_lr * (1 - epoch / total)"}
PATIENT = {**PLATEAU, "patience": 3, "factor": 0.5}


def falling(total: int, first: int, last: int) -> list[list[float]]:
    return [[pytest.approx(0.1 * (1 - epoch / total))] for epoch in range(first, last)]


@pytest.mark.parametrize("central", [True, False], ids=["service", "alone"])
def test_another_policy_is_refused_with_what_differs(tmp_path, central):
    service = InMemoryService() if central else None
    job = trained_job(3, service, tmp_path / "state")
    job.die()
    job.members["policy"] = PATIENT

    with pytest.raises(ServiceRefused if central else PolicyConflict) as refused:
        job.start()

    assert "policy.schedule.factor is 0.97, not 0.5; policy.schedule.patience is 1, not 3" in str(refused.value)
    assert "set on_conflict to keep, replace or restart" in str(refused.value)


@pytest.mark.parametrize("central", [True, False], ids=["service", "alone"])
def test_a_policy_conflict_names_the_run_and_the_effect_of_each_remedy(tmp_path, central):
    job = Job(InMemoryService() if central else None, tmp_path / "state").start()
    job.train(0, 3)
    job.die()
    job.members["policy"] = {"type": "cosine", "decay_steps": 20}

    with pytest.raises(ServiceRefused if central else PolicyConflict) as refused:
        job.start()

    text = str(refused.value)
    assert text.startswith("run 'job' exists with another policy")
    # Only the type is named: every field of another type differs.
    assert '(policy.schedule.type is "reduce_on_plateau", not "cosine")' in text
    assert "choose another run=" in text
    assert all(f"'{value}' " in text for value in ("keep", "replace", "restart"))


@pytest.mark.parametrize("central", [True, False], ids=["service", "alone"])
def test_a_longer_run_is_refused_with_both_lengths_where_its_curve_depends_on_them(tmp_path, central):
    service = InMemoryService() if central else None
    job = Job(service, tmp_path / "state", FALLING).start(total_epochs=10)
    job.train(0, 3)
    job.die()

    with pytest.raises(ServiceRefused if central else PolicyConflict, match=r"\(total_epochs is 10, not 20\)"):
        job.start(total_epochs=20)


def test_a_longer_run_is_no_conflict_where_its_curve_does_not_depend_on_it():
    job = Job(InMemoryService()).start(total_epochs=10)
    job.train(0, 5)

    assert job.start(total_epochs=20).train(5, 15) == undisturbed(15)


@QUIET
@pytest.mark.parametrize("away", [False, True], ids=["there", "away"])
@pytest.mark.parametrize("checkpoint", [6, 4])
def test_a_job_that_is_killed_and_made_longer_is_killed_again_and_has_the_longer_curve(tmp_path, away, checkpoint):
    service = InMemoryService()
    job = Job(service, tmp_path / "spool", FALLING, on_conflict="replace").start(total_epochs=10)
    job.train(0, 6)
    job.die()
    service.away = away
    job.start(total_epochs=20).train(checkpoint, 12)
    job.die()
    job.start(total_epochs=20).train(11, 14)
    service.away = False
    job.die()

    rates = job.start(total_epochs=20).train(14, 20)

    assert rates == [*falling(10, 0, checkpoint), *falling(20, checkpoint, 20)]


@QUIET
@pytest.mark.parametrize("on_conflict", ["replace", "restart", "keep"])
def test_another_policy_after_a_kill_gives_the_same_rates_with_the_service_and_without(tmp_path, on_conflict):
    def rates(away: bool) -> list[list[float]]:
        service = InMemoryService()
        job = Job(service, tmp_path / f"spool-{away}", on_conflict=on_conflict).start()
        job.train(0, 9)
        job.die()
        service.away = away
        job.members["policy"] = PATIENT
        job.start().train(8, 20)
        job.die()
        service.away = False
        return job.start().train(19, 40)

    assert rates(away=True) == rates(away=False)


WAS = "policy.schedule.factor was 0.97, is 0.5; policy.schedule.patience was 1, is 3."
SAID = {
    "keep": "keeps its own policy: policy.schedule.factor is 0.97, not 0.5; policy.schedule.patience is 1, not 3.",
    "replace": f"has a new policy, its state is kept: {WAS}",
    "restart": f"has a new policy, its state is reset: {WAS}",
}


@pytest.mark.parametrize("central", [True, False], ids=["service", "alone"])
@pytest.mark.parametrize("on_conflict", SAID)
def test_the_outcome_of_a_policy_conflict_is_printed_once(tmp_path, central, on_conflict):
    job = trained_job(3, InMemoryService() if central else None, tmp_path / "state", on_conflict=on_conflict)
    job.die()
    assert job.said == []
    job.members["policy"] = PATIENT
    job.start().train(3, 5)
    job.die()

    job.start()

    expected = [f"RemoteLR: run 'job' {SAID[on_conflict]}"]
    assert job.said == (expected if on_conflict != "keep" else expected * 2)
