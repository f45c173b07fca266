"""The fast path of a report gives the same result as the models."""

import json as standard
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from remotelr.rules import Decision
from remotelr_service.features.training.responses import raw_decision_response
from remotelr_service.features.training.schemas import DecisionAnswer
from remotelr_service.http import json_reader

DECISION = Decision(
    run="mnist-7",
    attempt=1,
    seq=12,
    epoch=9,
    step=900,
    learning_rate=1e-07,
    momentum=0.85,
    reason="plateau",
    changed=True,
    action="continue",
    plateau={"best": 0.1 + 0.2, "wait": 0, "cooldown": 2},
    state={"schedule": {"best": 0.1 + 0.2, "wait": 0, "cooldown": 2, "scale": 5e-324}, "pin": 1.7976931348623157e308},
)
NAMES = st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=5)
DOCUMENTS = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**19), 10**19)
    | st.floats(allow_nan=False, allow_infinity=False)
    | NAMES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=8,
)


def test_an_answer_without_a_model_is_byte_for_byte_that_of_the_model():
    assert DecisionAnswer.read(DECISION).model_dump_json().encode() == raw_decision_response(DECISION).body


def test_an_answer_of_a_run_without_a_plateau_is_that_of_the_model():
    plain = Decision(
        run="r",
        attempt=0,
        seq=1,
        epoch=0,
        step=None,
        learning_rate=0.0,
        momentum=None,
        reason="start",
        changed=False,
        action="stop",
        plateau=None,
        state={"schedule": None},
        replayed=True,
    )

    assert DecisionAnswer.read(plain).model_dump_json().encode() == raw_decision_response(plain).body


@given(DOCUMENTS, st.booleans())
def test_every_document_is_read_as_the_standard_library_reads_it(document: Any, escaped: bool):
    body = standard.dumps(document, ensure_ascii=escaped).encode()

    assert standard.loads(body) == json_reader.loads(body)


@given(st.text('0123456789eE.+-\\u"{}:, aé', max_size=60))
def test_a_body_is_read_with_care_just_where_it_has_an_exponent_a_long_integer_or_an_escape(text: str):
    body = text.encode()
    pattern = rb"[0-9][eE]|[0-9]{%d}|\\u" % (json_reader.MAX_INTEGER_DIGITS + 1)

    assert (re.search(pattern, body) is not None) == json_reader._is_suspect(body)


@pytest.mark.parametrize("number", ["1e400", "-1E+400", "1" * 400 + ".0", "9" * 21, "NaN", "-Infinity"])
def test_a_number_beyond_the_limits_is_rejected_with_its_path(number: str):
    with pytest.raises(json_reader.MalformedJSON) as refused:
        json_reader.loads(f'{{"metrics":{{"val_loss":{number}}}}}'.encode())

    assert "metrics.val_loss" == refused.value.path


@pytest.mark.parametrize("number", ["1e-05", "1.5E+3", "9" * 20])
def test_a_suspect_but_valid_number_is_accepted(number: str):
    assert {"loss": standard.loads(number)} == json_reader.loads(f'{{"loss":{number}}}'.encode())
