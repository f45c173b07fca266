"""What a policy may cost, in evaluated parts at one position."""

from time import thread_time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from remotelr.rules import Binding, InvalidPolicy, Point, policy_from_json, preview
from remotelr.rules.policy.cost import MAX_COST, cost_of
from remotelr.rules.run.model import RunSpec
from support.rules.documents import nodes, policies

RECURSIVE = {"type": "expression", "expression": "lr * 0.99"}


def chained(*schedules):
    return {"type": "chained", "initial_learning_rate": 0.1, "schedules": list(schedules)}


def test_a_hundred_recursive_formulas_are_refused_at_the_node_that_exceeds_the_budget():
    with pytest.raises(InvalidPolicy, match=r"costs 10,00\d,\d{3} evaluated parts .* may cost 200,000") as refused:
        policy_from_json({"schedule": chained(*[RECURSIVE] * 100)})

    assert "schedule.schedules[1]" == refused.value.path


def test_the_path_leaves_out_the_modifiers_that_stand_on_their_node():
    noisy = {"type": "constant", "learning_rate": 0.1, "noise": {"pct": 0.01}}
    with pytest.raises(InvalidPolicy) as refused:
        policy_from_json(chained(*[noisy] * 400))

    assert refused.value.path.startswith("schedules[")
    assert refused.value.path.endswith("]")


@pytest.mark.parametrize(
    "document",
    [
        RECURSIVE,
        {"type": "constant", "learning_rate": 0.1, "noise": {}},
        chained(*[{"type": "expression", "expression": "0.95 ** epoch"}] * 20),
        {"type": "reduce_on_plateau", "patience": 3, "schedule": {"type": "cosine", "decay_steps": 90}},
    ],
)
def test_an_ordinary_policy_costs_less_than_the_budget(document):
    assert 0 < cost_of(policy_from_json(document).schedule) <= MAX_COST


def test_a_recursive_formula_by_steps_is_refused_where_an_epoch_is_longer_than_it_looks_ahead():
    spec = RunSpec(
        policy=policy_from_json({"schedule": RECURSIVE, "unit": "step"}),
        initial_learning_rate=0.1,
        steps_per_epoch=100_000,
    )

    with pytest.raises(InvalidPolicy, match="uses lr, so two epochs of 100,000 positions"):
        spec.bound()


def test_the_curve_of_a_recursive_formula_goes_on_in_a_preview_as_far_as_it_goes():
    curve = preview(policy_from_json({"type": "expression", "expression": "lr * 0.9999"}), 0.1, 60_000)

    assert 0.1 * 0.9999**60_000 == pytest.approx(curve.learning_rates[-1])


@st.composite
def large_policies(draw):
    """Policies of many nodes of every type, up to the size that a document may have."""
    parts = draw(st.lists(nodes(1), min_size=1, max_size=6))
    many = parts * draw(st.integers(1, 80))
    try:
        return policy_from_json(chained(*many))
    except InvalidPolicy:
        return policy_from_json(chained(RECURSIVE, {"type": "constant", "learning_rate": 0.1, "noise": {}}))


@settings(max_examples=80)
@given(policy=st.one_of(policies(), large_policies()), position=st.integers(0, 10_000_000))
def test_the_time_of_one_position_is_bounded_by_the_cost(policy, position):
    """At most 1 us a part: ten times what a part takes, for a machine that has other work to do."""
    cost_s = cost_of(policy.schedule) * 1e-6
    policy = policy.bind(Binding(initial_learning_rate=0.1, total=100))
    state = policy.start(0.1)

    begun = thread_time()
    policy.learning_rate(state, float(position))
    state = policy.observe(state, Point(float(position), {"val_loss": 1.0}))
    policy.learning_rate(state, float(position + 1))

    assert thread_time() - begun < 0.05 + 3 * cost_s
