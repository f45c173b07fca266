"""The outputs of MT19937: the first ones, computed apart, are those of the whole generator."""

from itertools import islice

from hypothesis import given
from hypothesis import strategies as st

from remotelr.rules.composition import mersenne_twister
from remotelr.rules.composition.mersenne_twister import _all_outputs, _alone, _block, outputs

SEEDS = st.integers(0, 2**32 - 1)


def test_the_reference_outputs_of_seed_5489_begin_the_sequence():
    """The default seed of the reference implementation (mt19937ar.c)."""
    assert [3499211612, 581869302, 3890346734, 3586334585, 545404204] == list(islice(outputs(5489), 5))


@given(SEEDS)
def test_the_first_outputs_are_those_of_the_whole_state(seed):
    whole = tuple(islice(_all_outputs(seed), mersenne_twister._FIRST))

    assert whole == _alone(seed) == _block(seed - seed % 256)[seed % 256]


@given(SEEDS, st.integers(0, 40))
def test_the_sequence_goes_on_behind_the_first_outputs(seed, count):
    assert list(islice(_all_outputs(seed), count)) == list(islice(outputs(seed), count))


@given(st.lists(st.integers(0, 600), min_size=1, max_size=40), SEEDS)
def test_no_output_depends_on_the_seeds_before_it(offsets, begin):
    for offset in offsets:
        assert _alone((begin + offset) % 2**32) == tuple(islice(outputs(begin + offset), mersenne_twister._FIRST))
