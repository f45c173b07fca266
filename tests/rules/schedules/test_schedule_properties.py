"""What holds for every policy there can be."""

import json
from math import isfinite

from hypothesis import given, settings
from hypothesis import strategies as st

from remotelr.rules import Binding, InvalidReport, Point, policy_from_json, policy_to_json
from support.rules.documents import policies

BINDING = Binding(initial_learning_rate=0.1, total=50)
BOUND = policies().map(lambda policy: policy.bind(BINDING))
POSITIONS = st.one_of(
    st.floats(0, 100), st.integers(0, 100), st.integers(0, 10**7), st.floats(0, allow_infinity=False, allow_nan=False)
)
LOSSES = st.lists(st.one_of(st.none(), st.floats(0, 3), st.floats()), max_size=25)


def observed(policy, state, epoch, loss):
    """The state after an epoch's report; None is a report without the metric, and a refusal leaves the state alone."""
    try:
        return policy.observe(state, Point(epoch, {} if loss is None else {"val_loss": loss}))
    except InvalidReport:
        return state


def through_json(state):
    return json.loads(json.dumps(state, allow_nan=False))


@settings(deadline=None)
@given(policies())
def test_a_policy_survives_its_document(policy):
    document = json.loads(json.dumps(policy_to_json(policy), allow_nan=False))

    assert policy == policy_from_json(document)
    assert document == policy_to_json(policy_from_json(document))


@settings(deadline=None)
@given(BOUND, POSITIONS)
def test_every_rate_is_finite_and_within_the_bounds(policy, position):
    state = policy.start(0.1)

    assert isfinite(policy.raw_learning_rate(state, position))
    assert (policy.min_lr or 0.0) <= policy.learning_rate(state, position) <= (policy.max_lr or 1000.0)


@settings(deadline=None)
@given(BOUND, POSITIONS)
def test_every_momentum_is_a_share(policy, position):
    momentum = policy.momentum(policy.start(0.1), position)

    assert momentum is None or 0 <= momentum <= 1


@settings(deadline=None)
@given(BOUND, LOSSES)
def test_every_rate_stays_finite_and_within_the_bounds_whatever_is_reported(policy, losses):
    state = policy.start(0.1)

    for epoch, loss in enumerate(losses):
        state = observed(policy, state, epoch, loss)

        assert isfinite(policy.raw_learning_rate(state, epoch + 1))
        assert (policy.min_lr or 0.0) <= policy.learning_rate(state, epoch + 1) <= (policy.max_lr or 1000.0)


@settings(deadline=None, max_examples=200)
@given(policies(), LOSSES, st.integers(0, 25))
def test_a_run_split_anywhere_goes_on_as_if_it_had_not_been(policy, losses, split):
    """
    The state and the policy go through JSON at the split, and nothing else does.
    """
    whole = policy.bind(BINDING)
    state = whole.start(0.1)
    resumed, saved = whole, state

    for epoch, loss in enumerate(losses):
        if epoch == split:
            resumed, saved = policy_from_json(policy_to_json(whole)), through_json(state)
        state = observed(whole, state, epoch, loss)
        saved = observed(resumed, saved, epoch, loss)

        assert through_json(state) == through_json(saved)
        assert whole.learning_rate(state, epoch + 1) == resumed.learning_rate(saved, epoch + 1)


@settings(deadline=None)
@given(BOUND, LOSSES)
def test_an_observation_leaves_the_state_before_it_alone(policy, losses):
    state = policy.start(0.1)

    for epoch, loss in enumerate(losses):
        before = json.dumps(state)
        after = observed(policy, state, epoch, loss)

        assert before == json.dumps(state)
        state = after
