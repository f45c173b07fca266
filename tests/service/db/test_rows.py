"""Documents are stored as text, and come back as they were, to the last bit."""

import json
import math
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from remotelr_service.db.rows import from_text, to_text

NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=8) | st.sampled_from(["NaN", "Infinity", "nan", ""])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False) | NAMES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=12,
)


def bits(document: object) -> object:
    """The document with each float as its eight bytes: 0.0 and -0.0 are equal, and not the same."""
    match document:
        case float():
            return struct.pack(">d", document)
        case dict():
            return [(name, bits(value)) for name, value in document.items()]
        case list():
            return [bits(value) for value in document]
        case _:
            return document


@given(VALUES)
def test_a_document_comes_back_as_it_was(document):
    assert bits(document) == bits(from_text(to_text(document)))


@given(VALUES)
def test_a_stored_document_is_standard_json(document):
    def refuse(token: str) -> None:
        pytest.fail(f"{token} is not JSON")

    assert bits(document) == bits(json.loads(to_text(document), parse_constant=refuse))


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_no_json_is_not_stored(number):
    with pytest.raises(ValueError, match="not JSON compliant"):
        to_text({"plateau": {"best": [1.0, number]}})
