"""The strict JSON reader: accepted input, rejected input, and its cost."""

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from remotelr_service.http.json_reader import MalformedJSON, loads

DOCUMENTS = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**18), 10**18)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"])), inner, max_size=4
        )
    ),
    max_leaves=8,
)


@given(DOCUMENTS, st.booleans())
def test_every_json_value_is_read_as_written(document, is_ascii):
    assert document == loads(json.dumps(document, ensure_ascii=is_ascii).encode())


@given(st.binary(max_size=60))
def test_any_bytes_are_read_like_the_standard_library_or_rejected(body):
    try:
        read = loads(body)
    except MalformedJSON:
        return

    assert json.loads(body.decode()) == read


@pytest.mark.parametrize(
    ("body", "path", "reason"),
    [
        (b'{"metrics": {"val_loss": NaN}}', "metrics.val_loss", 'the string "nan"'),
        (b'{"a": [1, -Infinity]}', "a[1]", 'the string "-inf"'),
        (b'{"a": {"b": 1, "b": 1}}', "a", "duplicate name 'b'"),
        (b'{"a": 1e400}', "a", "beyond the largest double"),
        (b'{"a": -1e400}', "a", "beyond the largest double"),
        (b'{"a": %s}' % (b"1" * 21), "a", "more than 20 digits"),
        (b'{"a": 0.%s}' % (b"1" * 400), "a", "more than 400 characters"),
        (b'{"a": "\\u0000"}', "a", "U+0000"),
        (b'{"a": "x\\ud800"}', "a", "U+D800"),
        (b'{"\\ud800": 1}', "", "U+D800"),
        (b"[%s]" % b",".join([b"0"] * 1001), "", "more than 1000 items"),
        (b"{%s}" % b",".join(b'"%d":0' % i for i in range(1001)), "", "more than 1000 members"),
        (b"[" * 17 + b"]" * 17, "", "more than 16 levels"),
        (b'{"a": 1', "", "line 1, column 8"),
        (b'{"a": 1} x', "", "Extra data"),
        (b"", "", "Expecting value"),
        (b"\xff", "", "not UTF-8"),
        (b"\xef\xbb\xbf{}", "", "Expecting value"),
        (b'"\xed\xa0\x80"', "", "not UTF-8"),
        ('{"a": 1}'.encode("utf-16"), "", "not UTF-8"),
        (b'{"a": 01}', "", "column"),
        (b"{'a': 1}", "", "column"),
        (b'{"a": "\x00"}', "", "control character"),
    ],
)
def test_invalid_json_is_rejected_with_its_path_and_the_reason(body, path, reason):
    with pytest.raises(MalformedJSON) as refused:
        loads(body)

    assert (path, True) == (refused.value.path, reason in refused.value.message)


@pytest.mark.parametrize(
    "body", [b"[" * 16 + b"]" * 16, b'"[[[[[[[[[[[[[[[[[[[[[["', b"[%s]" % b",".join([b"0"] * 1000)]
)
def test_json_at_the_limits_is_accepted(body):
    assert json.loads(body) == loads(body)


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 1_000_000,
        b'{"a":' * 200_000,
        b'"\\"' * 340_000,
        b'"' + b'\\"' * 500_000,
        b"[" + b"[]," * 340_000 + b"[]]",
        b"[" + b"0," * 500_000 + b"0]",
        b"{" + b",".join(b'"%d":0' % i for i in range(90_000)) + b',"0":0}',
        b"1" * 1_000_000,
        b"1." + b"1" * 1_000_000,
        b'"' * 1_000_000,
        b"\\" * 1_000_000,
    ],
    ids=["depth", "objects", "quotes", "escapes", "lists", "items", "names", "digits", "float", "empty", "backslashes"],
)
def test_a_megabyte_of_brackets_is_rejected_at_once(body):
    began = time.thread_time()
    with pytest.raises(MalformedJSON):
        loads(body)

    assert time.thread_time() - began < 2


def test_too_many_lists_are_rejected_before_parsing():
    with pytest.raises(MalformedJSON, match="more than 20000 lists and objects"):
        loads(b"[" + b"[]," * 340_000 + b"[]]")
