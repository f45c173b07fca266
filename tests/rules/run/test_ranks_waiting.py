"""The ranks of one run, and the point that waits for them: for all, for enough, or until its time is over."""

from dataclasses import replace
from itertools import permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from remotelr.rules import Decision, InvalidPolicy, InvalidReport, OutOfOrder, RunFinished, Waiting
from remotelr.rules.policy.codec import policy_from_json, policy_to_json
from support.rules.run_histories import PLATEAU, Story

EAGER = {"type": "reduce_on_plateau", "factor": 0.5, "patience": 1, "min_delta": 0.0, "flavor": "keras_legacy"}


def policy(schedule=None, unit="epoch", **aggregate):
    return {"schedule": schedule or EAGER, "unit": unit, "aggregate": {"ranks": "all", **aggregate}}


def impatient(on_timeout="proceed", schedule=None, world_size=4, **rest):
    return Story(policy(schedule, timeout_s=30, on_timeout=on_timeout), world_size=world_size, **rest)


def events(story, kind):
    return [event for event in story.log.events if event.kind == kind]


# Ranks present at the deadline


def test_when_its_time_is_over_a_point_is_decided_by_the_ranks_that_are_there():
    story = impatient()
    waiting = [story.report(0, value, rank=rank) for rank, value in [(3, 2.0), (1, 4.0)]]
    decision = story.expire()

    assert [(1, 4), (2, 4)] == [(each.have, each.need) for each in waiting]
    assert 3.0 == decision.plateau["best"]
    assert [(0, {"ranks": [1, 3]})] == [(event.epoch, event.notes) for event in events(story, "timeout")]
    assert story.replayed() == story.run


def test_when_its_time_is_over_a_point_may_be_left_out_and_the_rate_held():
    """
    With patience 1 every further report of 1.0 would halve the rate.
    """
    story = impatient("hold", world_size=2)
    rates = []
    for epoch in range(4):
        story.report(epoch, 1.0, rank=0)
        decision = story.report(epoch, 1.0, rank=1) if epoch in (0, 3) else story.expire()
        rates.append(decision.learning_rate)

    assert [1.0, 1.0, 1.0, 0.5] == rates
    assert [[0], [0]] == [event.notes["ranks"] for event in events(story, "timeout")]
    assert story.replayed() == story.run


def test_a_schedule_of_time_alone_goes_on_while_a_plateau_is_held():
    story = impatient("hold", {"type": "linear", "end_learning_rate": 0.0, "decay_steps": 4}, world_size=2)
    rates = []
    for epoch in range(4):
        story.report(epoch, 1.0, rank=1)
        rates.append(story.expire().learning_rate)

    assert [0.75, 0.5, 0.25, 0.0] == rates


def test_a_rank_that_comes_after_the_time_gets_the_same_decision_and_its_value_is_kept():
    story = impatient(world_size=2)
    story.report(0, 1.0, rank=0)
    decision = story.expire()
    late = story.report(0, 0.1, rank=1)

    assert late == replace(decision, replayed=True) == story.report(0, 1.0, rank=0)
    assert [({"late": True}, {"val_loss": 0.1})] == [
        (event.notes, event.payload["metrics"]) for event in events(story, "report") if event.rank == 1
    ]
    assert story.replayed() == story.run


def test_where_rank_0_is_to_decide_the_others_do_when_it_does_not_come():
    story = Story({"schedule": EAGER, "aggregate": {"timeout_s": 30}}, world_size=3)
    waiting = story.report(0, 2.0, rank=2)
    decision = story.expire()

    assert (0, 1) == (waiting.have, waiting.need)
    assert 2.0 == decision.plateau["best"]


def test_of_several_points_that_wait_the_oldest_is_decided_first():
    story = impatient(world_size=2)
    for epoch in (0, 1):
        story.report(epoch, 1.0, rank=0)

    assert [1, 2, None] == [None if each is None else each.epoch for each in (story.expire() for _ in range(3))]


def test_a_point_before_a_decided_one_is_out_of_order_for_ranks_that_still_wait():
    story = Story(policy(), world_size=2)
    story.report(0, 1.0, rank=0)
    for rank in (0, 1):
        story.report(1, 1.0, rank=rank)

    with pytest.raises(OutOfOrder):
        story.report(0, 1.0, rank=0)


@pytest.mark.parametrize(
    "quiet",
    [
        Story(policy(), world_size=2),
        Story(policy(timeout_s=30), world_size=1),
        Story({"schedule": EAGER}, world_size=2),
    ],
)
def test_a_run_without_a_timeout_or_with_one_rank_never_times_out(quiet):
    quiet.report(0, 1.0, rank=quiet.run.spec.world_size - 1)

    assert quiet.expire() is None
    assert quiet.run.timeout_s is None or quiet.run.epoch == 1


def test_nothing_is_over_before_a_rank_has_reported():
    assert impatient().expire() is None


def test_a_new_attempt_waits_for_all_ranks_again():
    story = impatient(world_size=2)
    story.report(0, 1.0, rank=0)
    story.attempt(0)

    assert story.expire() is None


def test_a_new_attempt_rewinds_past_a_timed_out_point():
    story = impatient(world_size=2)
    first = story.run.state
    story.report(0, 1.0, rank=0)
    story.expire()
    story.attempt(0)

    assert first == story.run.state
    assert [1] == [event.superseded_by for event in events(story, "timeout")]
    assert story.replayed() == story.run


def test_a_policy_for_a_lone_trainer_leaves_a_run_its_ranks():
    """Only an attempt changes how many they are: what one of them has reported would be reported twice."""
    story = Story(policy(), world_size=2)
    story.report(0, 1.0)
    story.put({"schedule": EAGER}, "replace")

    assert 2 == story.run.spec.world_size
    assert 1 == story.report(0, 1.0).epoch
    assert 2 == story.report(1, 1.0, rank=0).epoch


def test_a_new_attempt_may_begin_right_after_a_timed_out_point():
    story = impatient(world_size=2)
    story.report(0, 1.0, rank=0)
    story.expire()
    after = story.run.state
    for rank in (0, 1):
        story.report(1, 0.5, rank=rank)
    story.attempt(1)

    assert after == story.run.state


def test_a_rank_that_waits_when_the_run_is_finished_gets_run_finished():
    story = Story(policy(), world_size=2)
    story.report(0, 1.0, rank=0)
    story.finish("stopped")

    with pytest.raises(RunFinished):
        story.report(0, 1.0, rank=0)
    assert story.expire() is None


# Enough ranks


def test_the_first_ranks_that_make_a_quorum_decide_and_the_others_are_late():
    story = Story(policy(ranks="quorum", quorum=2, reduce="max"), world_size=4)
    story.report(0, 3.0, rank=3)
    decision = story.report(0, 5.0, rank=0)
    late = story.report(0, 9.0, rank=1)

    assert 5.0 == decision.plateau["best"]
    assert late == replace(decision, replayed=True)


def test_a_new_policy_that_needs_fewer_ranks_decides_for_the_waiting_ones():
    """
    An operator does this when a rank is dead and the policy has no timeout.
    """
    story = Story(policy(), world_size=4)
    for rank in (1, 2):
        story.report(0, 2.0 + rank, rank=rank)
    story.put(policy(ranks="quorum", quorum=2), "replace", world_size=4)
    decision = story.report(0, 3.0, rank=1)

    assert 3.5 == decision.plateau["best"]
    assert [({"cause": "quorum"}, {"ranks": [1, 2]})] == [
        (event.payload, event.notes) for event in events(story, "timeout")
    ]
    assert story.replayed() == story.run


def test_a_new_policy_that_needs_rank_0_alone_uses_its_stored_report():
    story = Story(policy(), world_size=3)
    for rank in (0, 1):
        story.report(0, 1.0 + rank, rank=rank)
    story.put({"schedule": EAGER}, "replace", world_size=3)

    assert 1.0 == story.report(0, 2.0, rank=1).plateau["best"]


# Values of the ranks


def test_a_restarted_group_of_another_size_waits_for_as_many_as_it_has():
    story = Story(policy(), world_size=8)
    story.attempt(0, world_size=2)

    assert [Waiting, Decision] == [type(story.report(0, 1.0, rank=rank)) for rank in (0, 1)]


def test_shards_of_100_and_10_samples_count_by_their_samples():
    story = Story(policy(), world_size=2)
    story.report(0, 3.0, rank=1, weight=10.0)

    assert (1.0 * 100 + 3.0 * 10) / 110 == story.report(0, 1.0, rank=0, weight=100.0).plateau["best"]


def test_the_steps_of_the_lowest_rank_count_in_any_order_of_arrival():
    """
    Uneven shards make uneven numbers of steps.
    """
    schedule = {"type": "linear", "end_learning_rate": 0.0, "decay_steps": 100}
    decisions = []
    for order in permutations([(0, 10), (1, 12), (2, 14)]):
        story = Story(policy(schedule, unit="step"), world_size=3)
        *_, decision = [story.report(0, 1.0, rank=rank, step=step) for rank, step in order]
        decisions.append((decision.step, decision.learning_rate))

    assert [(10, 0.9)] * 6 == decisions


def test_a_rank_that_says_too_little_is_refused_itself_and_not_the_last_one():
    story = Story(policy(unit="step"), world_size=2)

    with pytest.raises(InvalidReport):
        story.report(0, 1.0, rank=0)


def test_the_drift_of_a_rank_that_waits_is_noted_too():
    story = Story(policy(), world_size=2)
    story.report(0, 1.0, rank=1, learning_rate=0.3)

    assert {"drift": 1.0} == events(story, "report")[0].notes


# The document


@pytest.mark.parametrize("timeout_s", [0, -1, 604_801, "30", True])
def test_a_time_to_wait_is_more_than_nothing_and_at_most_a_week(timeout_s):
    with pytest.raises(InvalidPolicy, match=r"^aggregate\.timeout_s: "):
        policy_from_json(policy(timeout_s=timeout_s))


def test_by_default_all_ranks_are_waited_for_without_a_timeout():
    aggregate = policy_to_json(policy_from_json(policy()))["aggregate"]

    assert {"ranks": "all", "reduce": "weighted_mean", "on_timeout": "proceed"} == aggregate


# Whatever order they come in

WORLD = 4
AGGREGATES = [
    {"ranks": "rank0"},
    {"ranks": "all", "reduce": "weighted_mean"},
    {"ranks": "all", "reduce": "median"},
    {"ranks": "quorum", "quorum": 3, "reduce": "mean"},
]
LOSSES = st.sampled_from([0.1, 0.3, 0.5, 0.7, float("nan")])


def values(epoch, rank, losses):
    return losses[(epoch * WORLD + rank) % len(losses)]


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(AGGREGATES),
    st.sampled_from(["proceed", "hold"]),
    st.lists(LOSSES, min_size=1, max_size=12),
    st.lists(st.one_of(st.integers(0, WORLD - 1), st.just("time is over")), max_size=60),
)
def test_whatever_happens_every_rank_gets_the_same_decisions(aggregate, on_timeout, losses, happenings):
    """
    Each rank repeats its report until it is answered, and only then goes on to its next epoch.
    """
    document = {"schedule": PLATEAU, "aggregate": {**aggregate, "timeout_s": 1, "on_timeout": on_timeout}}
    story = Story(document, world_size=WORLD)
    at = [0] * WORLD
    decisions = {}
    for what in happenings:
        if what == "time is over":
            story.expire()
            continue
        answer = story.report(at[what], values(at[what], what, losses), rank=what, weight=1.0 + what)
        if isinstance(answer, Decision):
            decisions.setdefault(at[what], []).append(replace(answer, replayed=False))
            at[what] += 1

    assert all(answer == answers[0] for answers in decisions.values() for answer in answers)
    assert story.replayed() == story.run


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["weighted_mean", "mean", "min", "max", "median"]),
    st.lists(LOSSES, min_size=1, max_size=12),
    st.lists(st.permutations(range(WORLD)), min_size=5, max_size=5),
    st.lists(st.integers(0, WORLD - 1), max_size=5),
)
def test_the_order_of_arrival_and_repetitions_change_no_rate(reduction, losses, orders, repeated):
    def rates(orders):
        story = Story({"schedule": PLATEAU, "aggregate": {"ranks": "all", "reduce": reduction}}, world_size=WORLD)
        for epoch, order in enumerate(orders):
            for rank in order:
                decision = story.report(epoch, values(epoch, rank, losses), rank=rank, weight=1.0 + rank)
            yield decision.learning_rate, decision.state

    again = [[*order, *repeated] for order in orders]

    assert list(rates([range(WORLD)] * 5)) == list(rates(again))
